//! Merges files into one configuration: if two define the same object, the first file wins.

use std::path::Path;

use tidegate_config::{Config, ForEachSection, Kind, Object, ObjectRef, Problem, Provided, for_each_section};

/// Merges files in the order of their names.
pub(super) fn merge<'a>(parts: impl Iterator<Item = (&'a Path, &'a Provided)>) -> Provided {
    let mut out = Provided::default();
    for (_, part) in parts {
        add(&mut out, part);
    }
    out
}

fn add(out: &mut Provided, part: &Provided) {
    if *out == Provided::default() {
        out.clone_from(part);
        return;
    }
    let mut lost: Vec<ObjectRef> = Vec::new();
    let (into, from) = (&mut out.config, &part.config);
    for_each_section(&mut Add { lost: &mut lost, into, from });
    into.tls.certificates.extend(from.tls.certificates.iter().cloned());
    out.tests.extend(part.tests.iter().cloned());
    // Certificates have no names and are numbered across all files.
    let before = out.origins.keys().filter(|object| object.kind == Kind::Certificate).count();
    let renamed = |object: &ObjectRef| match object.kind {
        Kind::Certificate => {
            let index = object
                .name
                .parse::<usize>()
                .map_or_else(|_| object.name.clone(), |index| (index + before).to_string());
            ObjectRef { kind: object.kind, name: index }
        }
        _ => object.clone(),
    };
    // A broken object that an earlier file defines is ignored as well.
    for problem in &part.problems {
        let mut problem = problem.clone();
        if let Some(object) = problem.object.take() {
            let object = renamed(&object);
            if out.origins.contains_key(&object) {
                lost.push(object);
            } else {
                problem.object = Some(object);
            }
        }
        out.problems.push(problem);
    }
    lost.sort();
    lost.dedup();
    for object in lost {
        let first = out.origins.get(&object).map(ToString::to_string).unwrap_or_default();
        let Some(origin) = part.origins.get(&object) else { continue };
        let message =
            format!("{} {} is defined in {first} already; this one is ignored", object.kind, object.name);
        out.problems.push(Problem { origin: origin.whole(), object: None, message, excerpt: None });
    }
    for (object, text) in &part.raw {
        if !out.origins.contains_key(object) {
            out.raw.insert(object.clone(), text.clone());
        }
    }
    for (object, origin) in &part.origins {
        out.origins.entry(renamed(object)).or_insert_with(|| origin.clone());
    }
}

/// Adds the objects of a file, and reports those that are already defined.
struct Add<'a> {
    lost: &'a mut Vec<ObjectRef>,
    into: &'a mut Config,
    from: &'a Config,
}

impl ForEachSection for Add<'_> {
    fn section<T: Object>(&mut self) {
        let into = T::map_mut(self.into);
        for (name, value) in T::map(self.from) {
            if into.contains_key(name) {
                self.lost.push(ObjectRef { kind: T::KIND, name: name.clone() });
            } else {
                into.insert(name.clone(), value.clone());
            }
        }
    }
}
