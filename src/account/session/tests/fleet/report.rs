//! Shows curves: a row of a table in Markdown, and a picture in SVG in the style of `docs/pictures/make`.

use std::{fmt::Write as _, ops::Range, time::Duration};

use super::run::Curve;

const WIDTH: u32 = 815;
const MARGIN: u32 = 16;
/// The pictures' first panel begins below title and legend.
const TOP: u32 = 66;
const PANEL: u32 = 150;
const PLOT: u32 = 88;
/// Space for the labels of the vertical axis.
const LEFT: u32 = 74;
/// The curve is a mean for each of so many parts of the time shown, each two pixels wide.
const BINS: u32 = 360;
const BIN_WIDTH: u32 = 2;

/// The bytes of a picture, as `docs/pictures/make` limits them.
const LARGEST: usize = 60_000;

/// Steps between the labels of the horizontal axis, and their unit.
const STEPS: [(u64, u64, &str); 9] = [
    (60, 60, "min"),
    (120, 60, "min"),
    (300, 60, "min"),
    (900, 60, "min"),
    (1800, 60, "min"),
    (3600, 3600, "h"),
    (12 * 3600, 3600, "h"),
    (24 * 3600, 24 * 3600, "d"),
    (10 * 24 * 3600, 24 * 3600, "d"),
];
const LABELS_MAX: u64 = 10;

/// A curve, the part of it to show, and what it is.
pub(super) struct Panel<'a> {
    pub(super) title: &'a str,
    pub(super) curve: &'a Curve,
    pub(super) shown: Range<Duration>,
    /// The time that the axis calls zero; not after what is shown.
    pub(super) zero: Duration,
}

/// A picture with its panels one below the other.
pub(super) fn picture(title: &str, panels: &[Panel]) -> String {
    let mut body = String::new();
    let mut bottom = TOP;
    for panel in panels {
        draw(&mut body, panel, bottom);
        bottom += PANEL;
    }
    let picture = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" width="{WIDTH}" height="{bottom}" role="img" aria-labelledby="title">
<title id="title">{title}</title>
<style>
text {{ font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d8dee6; white-space: pre }}
.strong {{ font-weight: 700; fill: #fff }} .faint {{ fill: #97a3b0 }} .good {{ fill: #7bd88f }} .caution {{ fill: #f2c46d }} .line {{ stroke: #97a3b0 }}
</style>
<rect width="{WIDTH}" height="{bottom}" rx="8" fill="#14191f"/>
<text x="{MARGIN}" y="29"><tspan class="strong">{title}</tspan></text>
<text x="{MARGIN}" y="47"><tspan class="faint">a second: </tspan><tspan class="caution">■</tspan> attempts  <tspan class="good">■</tspan> those that brought a token</text>
{body}</svg>
"##
    );
    assert!(picture.len() <= LARGEST, "{title}: {} bytes", picture.len());
    picture
}

fn draw(out: &mut String, panel: &Panel, top: u32) {
    let Panel { title, curve, shown, zero } = panel;
    let (base, right) = (top + 22 + PLOT, LEFT + BINS * BIN_WIDTH);
    let (attempts, log_ins) = (means(&curve.attempts, shown), means(&curve.log_ins, shown));
    let most = attempts.iter().chain(&log_ins).copied().fold(0.0, f64::max);
    let seconds = length(shown).as_secs_f64() / f64::from(BINS);
    let each = match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        ..5400.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3600.0),
    };
    let text = |out: &mut String, x: u32, y: u32, anchor: &str, class: &str, text: &str| {
        writeln!(out, r#"<text x="{x}" y="{y}" text-anchor="{anchor}"><tspan class="{class}">{text}</tspan></text>"#).unwrap();
    };
    text(out, MARGIN, top + 10, "start", "strong", title);
    text(out, right, top + 10, "end", "faint", &format!("means of {each}"));
    text(out, LEFT - 8, base - PLOT + 10, "end", "faint", &rate(most));
    text(out, LEFT - 8, base, "end", "faint", "0");
    area(out, &attempts, most, base, "caution");
    area(out, &log_ins, most, base, "good");
    writeln!(out, r#"<path class="line" d="M{LEFT} {base}H{right}"/>"#).unwrap();
    let (first, last) = (shown.start.saturating_sub(*zero).as_secs(), shown.end.saturating_sub(*zero).as_secs());
    let (step, unit, name) =
        *STEPS.iter().find(|(step, ..)| (last - first) / step <= LABELS_MAX).expect("a step for every length");
    for at in (first.next_multiple_of(step)..=last).step_by(usize::try_from(step).expect("a step fits")) {
        let part = (Duration::from_secs(at) + *zero).saturating_sub(shown.start).div_duration_f64(length(shown));
        let x = f64::from(LEFT) + f64::from(BINS * BIN_WIDTH) * part;
        let (y, anchor) = (base + 17, if at == last { "end" } else { "middle" });
        let label = format!("{} {name}", at / unit);
        writeln!(out, r#"<text x="{x:.0}" y="{y}" text-anchor="{anchor}"><tspan class="faint">{label}</tspan></text>"#).unwrap();
    }
}

fn length(shown: &Range<Duration>) -> Duration {
    shown.end.saturating_sub(shown.start)
}

/// The mean of each part of the time shown.
fn means(series: &[u32], shown: &Range<Duration>) -> Vec<f64> {
    let edge = |bin: u32| shown.start + length(shown) * bin / BINS;
    let mean = |bin: u32| per_second(Curve::during(series, edge(bin)..edge(bin + 1)));
    (0..BINS).map(mean).collect()
}

fn per_second(seconds: &[u32]) -> f64 {
    let seconds_count = u32::try_from(seconds.len()).expect("a part of the time shown").max(1);
    f64::from(seconds.iter().sum::<u32>()) / f64::from(seconds_count)
}

fn area(out: &mut String, values: &[f64], most: f64, base: u32, class: &str) {
    let mut path = format!("M{LEFT} {base}");
    let mut before = String::new();
    let mut x = LEFT;
    for value in values {
        let y = format!("{:.1}", f64::from(base) - f64::from(PLOT) * value / most.max(f64::MIN_POSITIVE));
        if y != before {
            write!(path, "H{x}V{y}").unwrap();
            before = y;
        }
        x += BIN_WIDTH;
    }
    writeln!(out, r#"<path class="{class}" d="{path}H{x}V{base}Z"/>"#).unwrap();
}

/// The head of the tables.
pub(super) const HEAD: &str = "| | attempts in the busiest second | a second in the busiest minute | log-ins in the busiest second | attempts for a log-in | all ready after | without a token | the longest |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n";

/// The row of a curve: what is judged of it, and when everybody was ready after `since`.
pub(super) fn row(name: &str, curve: &Curve, judged: Range<Duration>, since: Duration) -> String {
    let (attempts, log_ins) = (Curve::during(&curve.attempts, judged.clone()), Curve::during(&curve.log_ins, judged));
    let total = |series: &[u32]| f64::from(series.iter().sum::<u32>());
    let longest = if curve.without_token == 0 { "–".to_owned() } else { spoken(curve.longest_without) };
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {longest} |\n",
        grouped(busiest(attempts, 1)),
        rate(f64::from(busiest(attempts, 60)) / 60.0),
        grouped(busiest(log_ins, 1)),
        rate(total(attempts) / total(log_ins)),
        spoken(curve.recovered_at.saturating_sub(since)),
        grouped(curve.without_token),
    )
}

/// The most in so many seconds in a row.
pub(super) fn busiest(series: &[u32], seconds: usize) -> u32 {
    let mut sum: u32 = series.iter().take(seconds).sum();
    let mut most = sum;
    for (gone, come) in series.iter().zip(series.iter().skip(seconds)) {
        sum = sum + come - gone;
        most = most.max(sum);
    }
    most
}

fn rate(rate: f64) -> String {
    match rate {
        10.0.. => grouped(format!("{rate:.0}").parse().expect("a whole number")),
        1.0.. => format!("{rate:.1}"),
        _ => format!("{rate:.2}"),
    }
}

/// A number with its thousands apart.
fn grouped(number: u32) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", grouped(number / 1000), number % 1000) }
}

fn spoken(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds @ ..120.0 => format!("{seconds:.0} s"),
        seconds @ ..1200.0 => format!("{:.1} min", seconds / 60.0),
        seconds @ ..7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[test]
fn numbers_are_written_for_people() {
    assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    assert_eq!([0.0, 0.072, 1.04, 9.96, 17.4, 9999.6].map(rate), ["0.00", "0.07", "1.0", "10.0", "17", "10,000"]);
    let times = [59, 119, 204, 1200, 7199, 12_000].map(Duration::from_secs);
    assert_eq!(times.map(spoken), ["59 s", "119 s", "3.4 min", "20 min", "120 min", "3.3 h"]);
    assert_eq!([busiest(&[1, 5, 2, 4], 1), busiest(&[1, 5, 2, 4], 2), busiest(&[1, 5], 60)], [5, 7, 6]);
}
