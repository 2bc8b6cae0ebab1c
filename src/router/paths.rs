//! Finds the paths and prefixes that match a request's path.

use smallvec::SmallVec;

use super::cover::PathPart;

/// Indexes of routes, lowest first, which is the order of priority.
pub(super) type Routes = SmallVec<[u32; 2]>;

/// The paths of routes. Most hosts have a single route: no list is allocated for it.
pub(super) type Asked<'a> = SmallVec<[(PathPart<'a>, u32); 1]>;

/// Up to this many routes are only listed: evaluating them is cheaper than looking them up.
const MAX_LISTED: usize = 4;

/// No parent.
const NONE: u32 = u32::MAX;

/// The routes of one host (or of none), by path.
#[derive(Default)]
pub(super) struct Paths {
    /// Routes for any path.
    any: Routes,
    /// Prefixes and exact paths in ascending order, each linked to its longest proper prefix among them.
    nodes: Box<[Node]>,
}

struct Node {
    text: Box<str>,
    parent: u32,
    prefix: Routes,
    exact: Routes,
}

impl Paths {
    pub(super) fn new(mut filed: Asked<'_>) -> Self {
        let mut any = Routes::new();
        if filed.len() <= MAX_LISTED {
            any.extend(filed.into_iter().map(|(_, route)| route));
            tidy(&mut any);
            return Self { any, nodes: Box::default() };
        }
        filed.sort_by(|(a, _), (b, _)| text(a).cmp(text(b)));
        let mut nodes: Vec<Node> = Vec::new();
        for (part, route) in filed {
            let exact = match part {
                PathPart::Any => {
                    any.push(route);
                    continue;
                }
                PathPart::Exact(_) => true,
                PathPart::Prefix(_) => false,
            };
            if nodes.last().is_none_or(|last| *last.text != *text(&part)) {
                let parent = parent_of(&nodes, text(&part));
                let text = text(&part).into();
                nodes.push(Node { text, parent, prefix: Routes::new(), exact: Routes::new() });
            }
            if let Some(node) = nodes.last_mut() {
                if exact { node.exact.push(route) } else { node.prefix.push(route) }
            }
        }
        tidy(&mut any);
        for node in &mut nodes {
            tidy(&mut node.prefix);
            tidy(&mut node.exact);
        }
        Self { any, nodes: nodes.into() }
    }

    /// Collects the lists of routes that may match this path.
    pub(super) fn collect<'a>(&'a self, path: &str, lists: &mut SmallVec<[&'a [u32]; 8]>) {
        if !self.any.is_empty() {
            lists.push(&self.any);
        }
        // Any prefix of `path` is also a prefix of the last text that is not greater than `path`.
        let after = self.nodes.partition_point(|node| *node.text <= *path);
        let Some(mut node) = after.checked_sub(1).and_then(|at| self.nodes.get(at)) else { return };
        let common = node.text.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
        loop {
            if node.text.len() <= common {
                if !node.prefix.is_empty() {
                    lists.push(&node.prefix);
                }
                if !node.exact.is_empty() && node.text.len() == path.len() {
                    lists.push(&node.exact);
                }
            }
            match self.nodes.get(node.parent as usize) {
                Some(parent) => node = parent,
                None => return,
            }
        }
    }
}

fn text<'a>(part: &'a PathPart<'_>) -> &'a str {
    match part {
        PathPart::Any => "",
        PathPart::Exact(text) => text,
        PathPart::Prefix(text) => text,
    }
}

/// Returns the last node so far that is a prefix of `text`: the newest one or one of its ancestors.
fn parent_of(nodes: &[Node], text: &str) -> u32 {
    let mut at = (nodes.len() as u32).wrapping_sub(1);
    while let Some(node) = nodes.get(at as usize) {
        if text.starts_with(&*node.text) {
            return at;
        }
        at = node.parent;
    }
    NONE
}

fn tidy(routes: &mut Routes) {
    routes.sort_unstable();
    routes.dedup();
    routes.shrink_to_fit();
}
