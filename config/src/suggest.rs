//! What to say of a name that is not known: the one that was meant, or those that there are.

pub use tidegate_core::expression::nearest;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_name_everything_that_is_possible() {
        assert_eq!(alternatives("zzz", &["a", "b", "c"]), "expected `a`, `b` or `c`");
        assert_eq!(alternatives("rulr", &["rule", "b"]), "did you mean `rule`?");
    }
}
