//! Finds the known name that is most similar to a misspelt one.

/// Maximum length of names to compare.
const MAX_NAME: usize = 64;

/// Returns the most similar known name, if it is similar enough.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.to_lowercase().chars().take(MAX_NAME + 1).collect();
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    known
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            let allowed = (name.len().max(letters.len()) / 3).max(1);
            let found = (letters.len() <= MAX_NAME).then(|| distance(&name, &letters))?;
            (found <= allowed && found < name.len()).then_some((found, candidate))
        })
        .min_by_key(|(found, _)| *found)
        .map(|(_, candidate)| candidate)
}

/// Returns the number of letters to insert, remove, replace or swap (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut before: Vec<usize> = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1; width];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row[j + 1] = best;
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["Host", "HostRegexp", "Path", "PathPrefix"];

    #[test]
    fn finds_the_misspelt_name() {
        for (written, meant) in [
            ("Hosts", "Host"),
            ("hosst", "Host"),
            ("PathPrefx", "PathPrefix"),
            ("HostRegex", "HostRegexp"),
            ("Ptah", "Path"),
        ] {
            assert_eq!(nearest(written, KNOWN), Some(meant), "{written}");
        }
    }

    #[test]
    fn dissimilar_names_are_not_suggested() {
        assert_eq!(nearest("Method", KNOWN), None);
        assert_eq!(nearest("", KNOWN), None);
        assert_eq!(nearest(&"x".repeat(100_000), KNOWN), None);
    }
}
