//! "Did you mean": the known name nearest to a mistyped one.

/// Names longer than this are not compared: nobody mistypes them into something known.
const LONGEST: usize = 64;

/// The name among `known` that is nearest to `name`, when one is near enough to be meant. Case does not count.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let most = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or the names that are possible.
pub fn alternatives(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => expected(known),
    }
}

/// "expected `a` or `b`".
pub fn expected(known: &[&str]) -> String {
    match known.split_last() {
        None => "no key is expected here".into(),
        Some((only, [])) => format!("expected `{only}`"),
        Some((last, front)) => format!("expected `{}` or `{last}`", front.join("`, `")),
    }
}

/// Optimal string alignment: insertions, deletions, substitutions, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(from != to)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["entryPoints", "service", "rule", "priority"];
        for (name, found) in [
            ("entrypoint", Some("entryPoints")),
            ("servcie", Some("service")),
            ("rul", Some("rule")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), found, "{name}");
        }
    }

    #[test]
    fn alternatives_name_everything_that_is_possible() {
        assert_eq!(alternatives("zzz", &["a", "b", "c"]), "expected `a`, `b` or `c`");
        assert_eq!(alternatives("rulr", &["rule", "b"]), "did you mean `rule`?");
    }
}
