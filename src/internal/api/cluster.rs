//! `/api/cluster`, which does not exist in Traefik: the members of the cluster and their configurations.

use serde_json::{Value, json};

use super::json::{Object, add};
use crate::acme::Leadership;
use crate::cluster::View;

/// Describes the cluster, and which gateway orders certificates for shared storages.
pub(super) fn cluster(view: &View, certificates: &[Leadership]) -> Value {
    let mut all = Object::new();
    add(&mut all, "name", view.name.as_str());
    add(&mut all, "id", view.id.as_str());
    add(&mut all, "store", view.store);
    add(&mut all, "connected", !view.store.is_empty() && view.error.is_empty());
    if !view.error.is_empty() {
        add(&mut all, "error", view.error.as_str());
    }
    if !view.announcements_error.is_empty() {
        add(&mut all, "announcementsError", view.announcements_error.as_str());
    }
    if let Some(leader) = &view.leader {
        add(&mut all, "leader", json!(leader));
    }
    let same = view.members.windows(2).all(|pair| pair[0].snapshot == pair[1].snapshot);
    add(&mut all, "sameConfiguration", same);
    add(&mut all, "members", view.members.iter().map(|one| member(view, one)).collect::<Value>());
    if !certificates.is_empty() {
        add(&mut all, "certificates", certificates.iter().map(resolver).collect::<Value>());
    }
    all.into()
}

fn member(view: &View, member: &crate::cluster::Member) -> Value {
    let mut object = Object::new();
    add(&mut object, "id", member.id.as_str());
    if !member.address.is_empty() {
        add(&mut object, "address", member.address.as_str());
    }
    add(&mut object, "version", member.version.as_str());
    add(&mut object, "since", member.since.as_str());
    add(&mut object, "snapshot", member.snapshot.as_str());
    add(&mut object, "generation", member.generation);
    add(&mut object, "ready", member.ready);
    add(&mut object, "problems", member.problems);
    add(&mut object, "announcement", member.announcement);
    add(&mut object, "leader", view.leader.as_ref().is_some_and(|leader| leader.id == member.id));
    add(&mut object, "self", member.id == view.id);
    object.into()
}

fn resolver(leadership: &Leadership) -> Value {
    let mut object = Object::new();
    add(&mut object, "resolver", leadership.resolver.as_str());
    add(&mut object, "storage", leadership.storage.as_str());
    add(&mut object, "leads", leadership.leads);
    add(&mut object, "leader", json!(leadership.leader));
    add(&mut object, "since", json!(leadership.since));
    add(&mut object, "members", leadership.members.len());
    if !leadership.error.is_empty() {
        add(&mut object, "error", leadership.error.as_str());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Leader, Member};

    fn member_of(id: &str, snapshot: &str) -> Member {
        Member {
            id: id.into(),
            version: "1.0.0".into(),
            since: "2026-01-01T00:00:00Z".into(),
            snapshot: snapshot.into(),
            ready: true,
            nonce: "secret".into(),
            ..Member::default()
        }
    }

    #[test]
    fn members_and_their_leader() {
        let view = View {
            name: "edge".into(),
            id: "b".into(),
            store: "consul",
            error: String::new(),
            announcements_error: String::new(),
            members: vec![member_of("a", "11"), member_of("b", "22")],
            leader: Some(Leader { id: "a".into(), since: "2026-01-02T00:00:00Z".into() }),
        };
        let text = cluster(&view, &[]).to_string();
        assert_eq!(
            text,
            concat!(
                r#"{"name":"edge","id":"b","store":"consul","connected":true,"#,
                r#""leader":{"id":"a","since":"2026-01-02T00:00:00Z"},"sameConfiguration":false,"members":["#,
                r#"{"id":"a","version":"1.0.0","since":"2026-01-01T00:00:00Z","snapshot":"11","generation":0,"#,
                r#""ready":true,"problems":0,"announcement":0,"leader":true,"self":false},"#,
                r#"{"id":"b","version":"1.0.0","since":"2026-01-01T00:00:00Z","snapshot":"22","generation":0,"#,
                r#""ready":true,"problems":0,"announcement":0,"leader":false,"self":true}]}"#
            )
        );
    }

    #[test]
    fn a_single_member_has_the_same_configuration_and_errors_are_shown() {
        let alone = View { id: "a".into(), members: vec![member_of("a", "11")], ..View::default() };
        let text = cluster(&alone, &[]).to_string();
        assert!(text.contains(r#""store":"","connected":false,"sameConfiguration":true"#), "{text}");
        let cut = View { store: "redis", error: "it is away".into(), ..alone };
        let lock = Leadership {
            resolver: "le".into(),
            storage: "consul://h".into(),
            leads: false,
            leader: None,
            since: None,
            members: Vec::new(),
            error: String::new(),
        };
        let text = cluster(&cut, &[lock]).to_string();
        assert!(text.contains(r#""connected":false,"error":"it is away""#), "{text}");
        assert!(text.ends_with(r#""certificates":[{"resolver":"le","storage":"consul://h","leads":false,"leader":null,"since":null,"members":0}]}"#), "{text}");
    }
}
