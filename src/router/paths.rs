//! Finds, among many paths and prefixes, those that a request's path fits.

use smallvec::SmallVec;

use super::cover::PathPart;

/// Numbers of routes, lowest (that is: first in order of priority) first.
pub(super) type Routes = SmallVec<[u32; 2]>;

/// What routes ask of the path. Most hosts have a single route: no list is allocated for it.
pub(super) type Asked<'a> = SmallVec<[(PathPart<'a>, u32); 1]>;

/// Up to this many routes are just listed: evaluating them is cheaper than looking for them.
const LISTED: usize = 4;

/// No parent.
const NONE: u32 = u32::MAX;

/// The routes of one host (or of none), by path.
#[derive(Default)]
pub(super) struct Paths {
    /// Routes for any path.
    any: Routes,
    /// Prefixes and exact paths in ascending order, each with a link to the longest other one that begins it.
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
        if filed.len() <= LISTED {
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

    /// Adds the lists of routes that may take a request with this path.
    pub(super) fn collect<'a>(&'a self, path: &str, lists: &mut SmallVec<[&'a [u32]; 8]>) {
        if !self.any.is_empty() {
            lists.push(&self.any);
        }
        // Whatever begins `path` also begins the last text that is not greater than `path`.
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

/// The last of the nodes so far that begins `text`: it is the newest one or one of its ancestors.
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
