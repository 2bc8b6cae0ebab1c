//! Resolves a value and options at the same place (`--accesslog=false --accesslog.format=json`).

use crate::origin::{Origin, Problem};
use crate::tree::is_affirmative;

/// One setting as given.
pub(super) struct Given<'a> {
    /// The parts of its key.
    pub(super) steps: Vec<&'a str>,
    /// Its value.
    pub(super) value: &'a str,
    /// Where it was written.
    pub(super) origin: Origin,
}

impl Given<'_> {
    fn is_above(&self, other: &Self) -> bool {
        let (above, below) = (&self.steps, &other.steps);
        above.len() < below.len() && above.iter().zip(below).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.steps.len() == other.steps.len()
            && self.steps.iter().zip(&other.steps).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }
}

/// Removes settings that have no effect.
///
/// This is Traefik's rule, whatever the order: a switch with any value but `true` is off, and options below
/// it are ignored. A value at any other place is ignored if there are options below it, which is a problem.
pub(super) fn settle<'a>(
    given: Vec<Given<'a>>,
    is_switch: &dyn Fn(&[&str]) -> bool,
) -> (Vec<Given<'a>>, Vec<Problem>) {
    let mut problems = Vec::new();
    // The last one wins where a flag is repeated.
    let last = |place: usize| !given[place + 1..].iter().any(|later| later.is_beside(&given[place]));
    let above: Vec<usize> = (0..given.len())
        .filter(|&place| given.iter().any(|other| given[place].is_above(other)) && last(place))
        .collect();
    let off: Vec<usize> = above
        .into_iter()
        .filter(|&place| !is_affirmative(given[place].value) && is_switch(&given[place].steps))
        .collect();
    let mut kept = vec![true; given.len()];
    for place in 0..given.len() {
        if off.iter().any(|&switch| given[switch].is_above(&given[place])) {
            kept[place] = false;
        }
    }
    for place in 0..given.len() {
        let one = &given[place];
        let has_options = (0..given.len()).any(|other| kept[other] && one.is_above(&given[other]));
        if !kept[place] || is_affirmative(one.value) || !has_options {
            continue;
        }
        kept[place] = false;
        if !is_switch(&one.steps) {
            let path = one.steps.join(".");
            let message = format!("`{}` has no effect: options of `{path}` are also given", one.value);
            problems.push(Problem { origin: one.origin.clone(), object: None, message, excerpt: None });
        }
    }
    let mut kept = kept.into_iter();
    let given = given.into_iter().filter(|_| kept.next().unwrap_or(true)).collect();
    (given, problems)
}
