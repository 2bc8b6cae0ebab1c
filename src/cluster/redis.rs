//! Membership in Redis: each member runs a script periodically, which removes members that have not run it in
//! time.

use std::sync::Arc;
use std::time::Duration;

use tidegate_clients::OptionError;
use tidegate_clients::redis::{Connection, Master, Value, cmd};
use tokio::time::{Instant, timeout};

use super::error::MemberError;
use super::member::now;
use super::{Inner, Leader, Member, News, pause};
use crate::settings::{Cluster as Options, ClusterRedis};

const SCRIPT: &str = include_str!("members.lua");
/// Maximum interval between two runs of the script.
const MAX_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Membership in Redis.
pub(super) struct Redis {
    master: Master,
    members: String,
    leader: String,
    ttl: Duration,
}

impl Redis {
    pub(super) fn new(place: &ClusterRedis, options: &Options) -> Result<Self, OptionError> {
        // The hash tag keeps both keys on one node of a Redis Cluster.
        let key = |what: &str| format!("{}:{{{}}}:{what}", place.prefix, options.name);
        Ok(Self {
            master: Master::new(place.place())?,
            members: key("members"),
            leader: key("leader"),
            ttl: options.ttl.0,
        })
    }

    /// Keeps the gateway a member until it stops.
    pub(super) async fn run(self, inner: Arc<Inner>, mut news: News) {
        let (mut connection, mut failures) = (None, 0);
        loop {
            let begun = Instant::now();
            let wait = match self.beat(&inner, &mut connection, begun).await {
                Ok(()) => {
                    failures = 0;
                    (self.ttl / 5).min(MAX_INTERVAL)
                }
                Err(error) => {
                    inner.failed(&format!("Redis at {}: {error}", self.master.endpoint()));
                    connection = None;
                    self.master.advance();
                    failures += 1;
                    pause(failures)
                }
            };
            let mut stop = news.clone();
            tokio::select! {
                () = news.snapshot(wait) => {}
                () = stop.stop() => break,
            }
        }
        inner.leading(false);
        if let Some(connection) = &mut connection {
            // Otherwise the member expires.
            let _ = self.run_script(&inner, connection, true).await;
        }
    }

    /// Publishes this member and returns the others.
    async fn beat(
        &self,
        inner: &Inner,
        connection: &mut Option<Connection>,
        begun: Instant,
    ) -> Result<(), MemberError> {
        if let Some(peer) = connection.as_ref().and_then(Connection::peer)
            && !peer.is_current().await
        {
            *connection = None;
        }
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.master.connect().await?),
        };
        let (joined, leader, members) = self.run_script(inner, connection, false).await?;
        inner.leading(joined && leader.as_ref().is_some_and(|(nonce, _)| *nonce == inner.me.nonce));
        inner.alive_until(begun + self.ttl);
        inner.saw(members, leader.map(|(_, leader)| leader));
        if joined {
            return Ok(());
        }
        Err(MemberError::IdTaken { id: inner.me.id.clone(), within: self.ttl })
    }

    async fn run_script(
        &self,
        inner: &Inner,
        connection: &mut Connection,
        leaves: bool,
    ) -> Result<ScriptReply, MemberError> {
        let (me, ttl) = (inner.me(), self.ttl.as_millis());
        let (text, leaves) = (me.text(), if leaves { "1" } else { "0" });
        let mut command = cmd("EVAL");
        command.arg(SCRIPT).arg(2).arg(&self.members).arg(&self.leader);
        command.arg(&me.id).arg(&me.nonce).arg(ttl).arg(text).arg(now()).arg(leaves);
        let answer = timeout(REPLY_TIMEOUT, connection.query(&command)).await;
        decode_reply(answer.map_err(|_| MemberError::TimedOut(REPLY_TIMEOUT))??)
    }
}

/// Whether this gateway is a member; the nonce and data of the leader; all members.
type ScriptReply = (bool, Option<(String, Leader)>, Vec<Member>);

fn decode_reply(reply: Value) -> Result<ScriptReply, MemberError> {
    let Value::Array(parts) = reply else { return Err(MemberError::UnexpectedReply) };
    let mut parts = parts.into_iter();
    let (Some(Value::Int(joined)), Some(Value::BulkString(leader))) = (parts.next(), parts.next()) else {
        return Err(MemberError::UnexpectedReply);
    };
    let leader = String::from_utf8_lossy(&leader);
    let mut words = leader.splitn(3, ' ').map(str::to_owned);
    let leader = match (words.next(), words.next(), words.next()) {
        (Some(nonce), Some(since), Some(id)) => Some((nonce, Leader { id, since })),
        _ => None,
    };
    let members = parts.filter_map(|part| match part {
        Value::BulkString(text) => Member::read(&text),
        _ => None,
    });
    Ok((joined == 1, leader, members.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_the_script_are_decoded() {
        let bytes = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let member = Member { id: "a".into(), ..Member::default() };
        let whole = Value::Array(vec![
            Value::Int(1),
            bytes("0a 2026-01-01T00:00:00Z gw-1"),
            bytes(&member.text()),
            bytes("odd"),
        ]);
        let leader = Leader { id: "gw-1".into(), since: "2026-01-01T00:00:00Z".into() };
        assert_eq!(decode_reply(whole).unwrap(), (true, Some(("0a".into(), leader)), vec![member]));
        let nobody = Value::Array(vec![Value::Int(0), bytes("")]);
        assert_eq!(decode_reply(nobody).unwrap(), (false, None, vec![]));
        assert!(decode_reply(Value::Nil).is_err());
    }
}
