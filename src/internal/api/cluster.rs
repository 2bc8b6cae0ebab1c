//! `/api/cluster`, which does not exist in Traefik: the members of the cluster and their configurations.

use super::json::Object;
use crate::acme::Leadership;
use crate::cluster::View;

/// Describes the cluster, and which gateway orders certificates for shared storages.
pub(super) fn cluster(view: &View, certificates: &[Leadership]) -> String {
    let mut all = Object::new();
    all.member("name", &view.name);
    all.member("id", &view.id);
    all.member("store", view.store);
    all.member("connected", &(!view.store.is_empty() && view.error.is_empty()));
    if !view.error.is_empty() {
        all.member("error", &view.error);
    }
    if let Some(leader) = &view.leader {
        all.member("leader", leader);
    }
    let same = view.members.windows(2).all(|pair| pair[0].snapshot == pair[1].snapshot);
    all.member("sameConfiguration", &same);
    let members: Vec<String> = view.members.iter().map(|one| member(view, one)).collect();
    all.raw("members", &format!("[{}]", members.join(",")));
    let resolvers: Vec<String> = certificates.iter().map(resolver).collect();
    if !resolvers.is_empty() {
        all.raw("certificates", &format!("[{}]", resolvers.join(",")));
    }
    all.finish()
}

fn member(view: &View, member: &crate::cluster::Member) -> String {
    let mut object = Object::new();
    object.member("id", &member.id);
    if !member.address.is_empty() {
        object.member("address", &member.address);
    }
    object.member("version", &member.version);
    object.member("since", &member.since);
    object.member("snapshot", &member.snapshot);
    object.member("generation", &member.generation);
    object.member("ready", &member.ready);
    object.member("problems", &member.problems);
    object.member("leader", &view.leader.as_ref().is_some_and(|leader| leader.id == member.id));
    object.member("self", &(member.id == view.id));
    object.finish()
}

fn resolver(leadership: &Leadership) -> String {
    let mut object = Object::new();
    object.member("resolver", &leadership.resolver);
    object.member("storage", &leadership.storage);
    object.member("leads", &leadership.leads);
    object.member("leader", &leadership.leader);
    object.member("since", &leadership.since);
    object.member("members", &leadership.members.len());
    if !leadership.error.is_empty() {
        object.member("error", &leadership.error);
    }
    object.finish()
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
            members: vec![member_of("a", "11"), member_of("b", "22")],
            leader: Some(Leader { id: "a".into(), since: "2026-01-02T00:00:00Z".into() }),
        };
        let text = cluster(&view, &[]);
        assert_eq!(
            text,
            concat!(
                r#"{"name":"edge","id":"b","store":"consul","connected":true,"#,
                r#""leader":{"id":"a","since":"2026-01-02T00:00:00Z"},"sameConfiguration":false,"members":["#,
                r#"{"id":"a","version":"1.0.0","since":"2026-01-01T00:00:00Z","snapshot":"11","generation":0,"#,
                r#""ready":true,"problems":0,"leader":true,"self":false},"#,
                r#"{"id":"b","version":"1.0.0","since":"2026-01-01T00:00:00Z","snapshot":"22","generation":0,"#,
                r#""ready":true,"problems":0,"leader":false,"self":true}]}"#
            )
        );
    }

    #[test]
    fn a_single_member_has_the_same_configuration_and_errors_are_shown() {
        let alone = View { id: "a".into(), members: vec![member_of("a", "11")], ..View::default() };
        let text = cluster(&alone, &[]);
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
        let text = cluster(&cut, &[lock]);
        assert!(text.contains(r#""connected":false,"error":"it is away""#), "{text}");
        assert!(text.ends_with(r#""certificates":[{"resolver":"le","storage":"consul://h","leads":false,"leader":null,"since":null,"members":0}]}"#), "{text}");
    }
}
