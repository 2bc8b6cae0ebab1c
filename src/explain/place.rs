//! Chooses the entry point of a request from its URL.

use std::str::FromStr;

use super::question::{Asked, QuestionError};
use super::report::EntryPointView;
use crate::settings::{Address, EntryPoint, Settings};
use crate::snapshot::Snapshot;

/// The entry point of a request.
pub(super) struct Place<'a> {
    /// Its index in the settings and in the snapshot.
    pub(super) index: usize,
    pub(super) name: &'a str,
    pub(super) options: &'a EntryPoint,
    pub(super) chosen_by: &'static str,
}

/// Returns the entry point with this name, or else the one that listens on the port of the URL, or else the first
/// with a router for the scheme.
pub(super) fn choose<'a>(
    settings: &'a Settings,
    snapshot: &Snapshot,
    given: &str,
    asked: &Asked,
) -> Result<Place<'a>, QuestionError> {
    let all = settings.entry_points.iter().enumerate().filter(|(_, (_, point))| !point.is_udp());
    let all: Vec<(usize, (&'a String, &'a EntryPoint))> = all.collect();
    let place = |chosen_by| {
        move |&(index, (name, options)): &(usize, (&'a String, &'a EntryPoint))| Place {
            index,
            name,
            options,
            chosen_by,
        }
    };
    if !given.is_empty() {
        let found = all.iter().find(|(_, (name, _))| *name == given).map(place("given"));
        return found.ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|(_, (name, _))| name.as_str()).collect();
            QuestionError::EntryPoint(given.chars().take(50).collect(), names.join(", "))
        });
    }
    let listens = |point: &EntryPoint| {
        Address::from_str(&point.address).is_ok_and(|address| address.port == asked.port)
    };
    if let Some(found) = all.iter().find(|(_, (_, point))| listens(point)) {
        return Ok(place("port")(found));
    }
    // A container's port 8443 is often published as 443: the defaults first, then any with routers.
    let defaults = settings.default_entry_points();
    let has_routers = |index: usize| {
        snapshot.entry_points.get(index).is_some_and(|routes| {
            let side = if asked.is_tls { &routes.tls } else { &routes.plain };
            !side.is_empty()
        })
    };
    let is_default = |name: &str| defaults.contains(&name);
    let guess = (all.iter().find(|(index, (name, _))| is_default(name) && has_routers(*index)))
        .or_else(|| all.iter().find(|(index, _)| has_routers(*index)))
        .or_else(|| all.first());
    guess.map(place("guess")).ok_or(QuestionError::NoEntryPoint)
}

impl Place<'_> {
    /// Describes the entry point.
    pub(super) fn view(&self) -> EntryPointView {
        EntryPointView {
            name: self.name.to_owned(),
            address: self.options.address.clone(),
            chosen_by: self.chosen_by,
        }
    }
}
