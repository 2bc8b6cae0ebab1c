//! Handles the outcomes of jobs: stores and serves certificates, and schedules retries.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use instant_acme::CertificateIdentifier;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Authority, Done, Failure, Resolver, STORE_AGAIN, WARN_AGAIN, now};
use crate::account;
use crate::backoff::pause;
use crate::error::{Error, Kind};
use crate::managed::ManagedCertificate;
use crate::names::domain_of;
use crate::order::Issued;
use crate::renewal::Suggestion;
use crate::shared::Row;
use crate::storage::{Change, StoredCertificate};

impl Resolver {
    /// Handles the outcome of a job.
    pub(super) async fn take(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Err(error) => {
                tracing::error!(resolver = %self.parts.name, %error, "a job has failed");
                if self.jobs.is_empty() {
                    self.in_flight.clear();
                }
            }
            Ok(Done::Opened(Ok((account, new)))) => {
                self.authority = Authority::Open(Arc::new(account));
                self.away = (0, String::new());
                if let Some(new) = new {
                    self.stored_account = Some(new.clone());
                    self.store(Change::Account(new)).await;
                }
            }
            Ok(Done::Opened(Err(error))) => {
                self.parts.shared.failed(&self.parts.name, OffsetDateTime::now_utc());
                self.close(&error);
            }
            Ok(Done::Suggested { id, outcome }) => self.suggested(&id, outcome),
            Ok(Done::Allowed { name, allowed: true }) => {
                self.demand(name);
            }
            Ok(Done::Allowed { .. }) => {}
            Ok(Done::Ordered { names, begun, outcome }) => {
                for name in &names {
                    self.in_flight.remove(name);
                }
                let outcome = match outcome {
                    Ok(issued) => self.issued(&names, issued).await,
                    Err(failure) => Err(failure),
                };
                match outcome {
                    Ok(()) => {}
                    Err(failure) if !failure.placed && self.account_has_changed(&failure.error).await => {
                        self.retry_state.was_not_placed(&names, begun);
                    }
                    Err(failure) => self.failed(&names, begun, &failure),
                }
                self.keep_ledger().await;
            }
        }
    }

    /// True if a refusal may be due to an account that another process has changed meanwhile, which is adopted then.
    async fn account_has_changed(&mut self, error: &Error) -> bool {
        let changed = error.kind == Kind::Refused && self.parts.storage.is_changed(&self.parts.name).await;
        if changed {
            self.load().await;
        }
        changed && matches!(self.authority, Authority::Closed { .. })
    }

    fn suggested(&mut self, id: &CertificateIdentifier<'_>, outcome: Result<Option<Suggestion>, Error>) {
        let now = OffsetDateTime::now_utc();
        match outcome {
            Ok(Some(suggestion)) => {
                for held in self.held.iter_mut().filter(|held| held.facts.id.as_ref() == Some(id)) {
                    held.renewal.follow(&suggestion, now);
                }
                self.dirty = true;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(resolver = %self.parts.name, %error, "no renewal information");
                for held in self.held.iter_mut().filter(|held| held.facts.id.as_ref() == Some(id)) {
                    held.renewal.look_soon(now);
                }
            }
        }
    }

    /// Closes the authority after a failure: all names wait for it together.
    fn close(&mut self, error: &Error) {
        let wait = pause(error, false, self.away.0);
        self.away = (self.away.0.saturating_add(1), error.to_string());
        self.authority = Authority::Closed { next: now() + wait.as_secs().max(1), register: false };
        tracing::error!(
            resolver = %self.parts.name,
            kind = error.kind.as_str(),
            again_in = ?wait,
            "the certificate authority cannot be used: {error}"
        );
    }

    /// Stores and serves a new certificate.
    async fn issued(&mut self, names: &[String], issued: Issued) -> Result<(), Failure> {
        let stored = StoredCertificate {
            domain: domain_of(names),
            certificate: BASE64_STANDARD.encode(&issued.chain),
            key: BASE64_STANDARD.encode(&issued.key),
            store: "default".to_owned(),
        };
        let hours = self.parts.options.certificates_duration;
        let now = OffsetDateTime::now_utc();
        let mut held = ManagedCertificate::read(stored.clone(), hours, now)
            .map_err(|error| Failure { error, placed: true })?;
        if let Some(name) = names.iter().find(|name| !held.facts.covers(name)) {
            let error = Error::refused(format!("the authority issued a certificate without {name}"));
            return Err(Failure { error, placed: true });
        }
        let is_replaced =
            |old: &ManagedCertificate| old.facts.names.iter().all(|name| held.facts.names.contains(name));
        let (old, mut kept): (Vec<ManagedCertificate>, Vec<ManagedCertificate>) =
            std::mem::take(&mut self.held).into_iter().partition(is_replaced);
        held.hasty = old.iter().any(|old| old.is_young(now) && !old.renew_now);
        tracing::info!(
            resolver = %self.parts.name,
            names = %names.join(", "),
            issuer = %held.facts.issuer,
            not_after = %held.facts.not_after,
            "certificate obtained"
        );
        kept.push(held);
        self.held = kept;
        let instead_of = old.into_iter().map(|old| old.stored.domain).collect();
        self.store(Change::Certificate { new: stored, instead_of }).await;
        self.dirty = true;
        self.retry_state.succeed(names);
        Ok(())
    }

    fn failed(&mut self, names: &[String], begun: u64, failure: &Failure) {
        let Failure { error, placed } = failure;
        self.parts.shared.failed(&self.parts.name, OffsetDateTime::now_utc());
        if !placed {
            self.retry_state.was_not_placed(names, begun);
        }
        if account::is_unknown(error) {
            tracing::warn!(resolver = %self.parts.name, "the authority does not know the account: it is registered again");
            self.authority = Authority::Closed { next: 0, register: true };
            return;
        }
        if !placed && error.kind == Kind::Network && matches!(self.authority, Authority::Open(_)) {
            self.close(error);
        }
        let next = self.retry_state.fail(names, error, *placed, now());
        tracing::error!(
            resolver = %self.parts.name,
            names = %names.join(", "),
            kind = error.kind.as_str(),
            again_in_seconds = next.saturating_sub(now()),
            "Unable to obtain ACME certificate for domains: {error}"
        );
    }

    /// Stores a change now or as soon as possible. Until then it is only in memory.
    async fn store(&mut self, change: Change) {
        self.unsaved.0.push(change);
        self.unsaved.1 = None;
        self.store_again().await;
    }

    /// Retries changes that could not be stored.
    pub(super) async fn store_again(&mut self) {
        if self.unsaved.1.is_some_and(|at| at > Instant::now()) {
            return;
        }
        while let Some(change) = self.unsaved.0.first().cloned() {
            if let Err(error) = self.parts.storage.change(&self.parts.name, change).await {
                tracing::error!(
                    resolver = %self.parts.name,
                    again_in = ?STORE_AGAIN,
                    "{} certificates or accounts are in use but not stored: {error}",
                    self.unsaved.0.len()
                );
                self.unsaved.1 = Some(Instant::now() + STORE_AGAIN);
                return;
            }
            self.unsaved.0.remove(0);
        }
    }

    /// Stores the retry state. False if that failed.
    pub(super) async fn keep_ledger(&self) -> bool {
        let kept = self.parts.storage.keep_ledger(&self.parts.name, &self.retry_state).await;
        if let Err(error) = &kept {
            tracing::warn!(resolver = %self.parts.name, "what has failed cannot be kept over a restart: {error}");
        }
        kept.is_ok()
    }

    /// Warns about certificates in use that are about to expire.
    pub(super) fn warn_of_ends(&mut self) {
        let now = OffsetDateTime::now_utc();
        for place in 0..self.held.len() {
            let held = &self.held[place];
            let left = held.facts.not_after - now;
            let is_warned = held.warned.is_some_and(|at| now - at < WARN_AGAIN);
            if left > held.facts.lifetime() / 6 || is_warned || !self.is_used(held) {
                continue;
            }
            let reason =
                self.retry_state.error_of(&held.facts.names).map_or(&self.away.1, |record| &record.error);
            tracing::warn!(
                resolver = %self.parts.name,
                names = %held.facts.names.join(", "),
                not_after = %held.facts.not_after,
                reason,
                "{}", if left.is_negative() { "a certificate has expired" } else { "a certificate expires soon" }
            );
            self.held[place].warned = Some(now);
        }
    }

    /// Updates the rows of the API.
    pub(super) fn tell(&self, now: OffsetDateTime) {
        let resolver = self.parts.name.to_string();
        let away = &self.away.1;
        let again = match self.authority {
            Authority::Closed { next, .. } if next > 0 => Some(next),
            _ => None,
        };
        let mut rows: Vec<Row> = self
            .held
            .iter()
            .map(|held| {
                let record = self.retry_state.error_of(&held.facts.names);
                let used = self.is_used(held);
                let due = held.due(now);
                let next = record.and_then(|record| at(record.next)).filter(|_| due <= now).unwrap_or(due);
                Row {
                    names: held.facts.names.clone(),
                    resolver: resolver.clone(),
                    issuer: held.facts.issuer.clone(),
                    not_after: Some(held.facts.not_after),
                    next: used.then_some(next),
                    error: record
                        .map_or(if due <= now { away.as_str() } else { "" }, |r| &r.error)
                        .to_owned(),
                }
            })
            .collect();
        let held: HashSet<&String> = self.held.iter().flat_map(|held| &held.facts.names).collect();
        for names in self.missing(now) {
            if names.iter().all(|name| held.contains(name)) {
                continue;
            }
            let record = self.retry_state.error_of(&names);
            rows.push(Row {
                resolver: resolver.clone(),
                issuer: String::new(),
                not_after: None,
                next: record.map_or(again, |record| Some(record.next)).and_then(at),
                error: record.map_or(away, |record| &record.error).clone(),
                names,
            });
        }
        let unsaved = self.unsaved.1.is_some().then(|| "what was obtained cannot be stored".to_owned());
        let whole = self.unread.iter().chain(&self.flaws).chain(&unsaved);
        rows.extend(whole.map(|error| Row::of_resolver(&self.parts.name, error.clone())));
        self.parts.shared.tell(&self.parts.name, rows);
    }
}

fn at(seconds: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}
