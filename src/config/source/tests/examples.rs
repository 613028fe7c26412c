//! The examples under `config/` are right.

use super::*;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

#[test]
fn the_files_load_without_a_word() {
    for (name, apis) in [("careportals-sidecar.toml", 1), ("several-apis.toml", 3)] {
        let loaded = load(Input { config_flag: Some(example(name)), ..input(&[]) });
        assert_eq!(warnings(&loaded), Vec::<String>::new());
        assert_eq!(sound(loaded).apis.len(), apis);
    }
}

/// What is commented out shows defaults, or at least what may be written.
#[test]
fn what_is_commented_out_loads_too() {
    let text = fs::read_to_string(example("careportals-sidecar.toml")).unwrap();
    let mut listen = 0;
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting)
            if setting.contains(" = ")
                && setting.split(' ').next().is_some_and(|key| keys().iter().any(|known| known.name == key)) =>
        {
            // The second way to listen is another choice, not a second line.
            listen += usize::from(setting.starts_with("listen"));
            if setting.starts_with("listen") && listen > 1 { line } else { setting }
        }
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(text.contains("\nmax_requests = 1024"));
    let loaded = load_text(&text);
    assert_eq!(warnings(&loaded), Vec::<String>::new());
    sound(loaded);
}

#[test]
fn the_environment_loads_as_it_stands_and_with_what_is_commented_out() {
    let text = fs::read_to_string(example("environment.env")).unwrap();
    let pairs = |text: &str| -> Vec<(String, String)> {
        text.lines()
            .filter(|line| line.starts_with("CAREPORTALS_"))
            .filter_map(|line| line.split_once('='))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect()
    };
    for text in [text.clone(), text.replace("# CAREPORTALS_", "CAREPORTALS_")] {
        let loaded = load(Input { environment: pairs(&text).into_iter().collect(), ..input(&[]) });
        assert_eq!(warnings(&loaded), Vec::<String>::new());
        sound(loaded);
    }
}
