//! Compares lists in which one item stands for any number of others. Pure.

/// Whether `patterns` match all that `others` do: the one that `is_any` takes any number of them, another one takes one.
pub(super) fn covers<T: PartialEq>(patterns: &[T], others: &[T], is_any: &T, takes: impl Fn(&T, &T) -> bool) -> bool {
    let (mut at, mut other, mut last_any) = (0, 0, None);
    loop {
        match (patterns.get(at), others.get(other)) {
            (Some(pattern), _) if pattern == is_any => {
                at += 1;
                last_any = Some((at, other));
            }
            (Some(pattern), Some(next)) if takes(pattern, next) => (at, other) = (at + 1, other + 1),
            (None, None) => return true,
            // Only the last `**` so far takes one more, since an earlier one could not match more by that.
            _ => match last_any {
                Some((after, until)) if until < others.len() => {
                    (at, other) = (after, until + 1);
                    last_any = Some((at, other));
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In these, `*` takes any number of letters, `?` one, and a letter itself.
    fn is_covered(patterns: &str, others: &str) -> bool {
        let takes = |pattern: &char, other: &char| pattern == other || (*pattern == '?' && *other != '*');
        let of = |text: &str| text.chars().collect::<Vec<_>>();
        covers(&of(patterns), &of(others), &'*', takes)
    }

    #[test]
    fn what_takes_any_number_covers_all_that_stands_in_its_place() {
        for (patterns, others) in
            [("", ""), ("*", ""), ("*", "a?*"), ("a*c", "abbc"), ("*a*b", "xaxab"), ("?b", "ab"), ("*?", "a")]
        {
            assert!(is_covered(patterns, others), "{patterns} {others}");
        }
        for (patterns, others) in [("", "a"), ("a", ""), ("?", "*"), ("a*c", "abbd"), ("*?", ""), ("a", "?"), ("a*b*c", "acb")] {
            assert!(!is_covered(patterns, others), "{patterns} {others}");
        }
    }
}
