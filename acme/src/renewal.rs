//! When a certificate is renewed: as the authority suggests (RFC 9773), or else with a third of its life left.

use instant_acme::{CertificateIdentifier, SuggestedWindow};
use time::{Duration, OffsetDateTime};

use super::account::Account;
use super::certificate::Facts;
use super::error::Error;
use super::transport::error_from;
use crate::options::DEFAULT_HOURS;

/// Certificates with at most this lifetime are renewed at half of it.
const SHORT_LIFE: Duration = Duration::days(10);
/// Minimum and maximum interval between two requests for renewal information.
const SOONEST_LOOK: Duration = Duration::minutes(1);
const LATEST_LOOK: Duration = Duration::days(1);
const LOOK_AGAIN: Duration = Duration::minutes(10);
const DEFAULT_LOOK: Duration = Duration::hours(6);

/// When to renew one certificate.
#[derive(Clone, Debug)]
pub(super) struct Renewal {
    /// Time from which it is to be renewed.
    pub(super) at: OffsetDateTime,
    /// Time of the next request for renewal information.
    pub(super) next_look: OffsetDateTime,
    /// The window that `at` was drawn from.
    window: Option<(OffsetDateTime, OffsetDateTime)>,
    /// The time that follows from the lifetime alone.
    own: OffsetDateTime,
    /// The latest time: a later suggestion leaves too little time, and is ignored.
    latest: OffsetDateTime,
}

/// A suggestion, and when to ask again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Suggestion {
    start: OffsetDateTime,
    end: OffsetDateTime,
    look_again: Duration,
}

impl Renewal {
    /// Schedules by the lifetime, before the authority is asked. `hours` is `certificatesDuration`.
    pub(super) fn by_lifetime(facts: &Facts, hours: u32, now: OffsetDateTime) -> Self {
        let lead = match hours {
            DEFAULT_HOURS => lead(facts.lifetime()),
            hours => of_duration(hours).min(facts.lifetime() / 2),
        };
        // Jitter per certificate, so that those of one day are not all renewed in the same minute.
        let jitter = facts.lifetime() * (share(facts) * 0.02);
        let own = facts.not_after - lead - jitter;
        Self { at: own, next_look: now, window: None, own, latest: facts.not_after - lead / 2 }
    }

    /// Adopts a suggestion. A known window keeps the time that was drawn from it.
    pub(super) fn follow(&mut self, suggestion: &Suggestion, now: OffsetDateTime) {
        self.next_look = now + suggestion.look_again;
        let window = (suggestion.start, suggestion.end);
        if self.window == Some(window) {
            return;
        }
        self.window = Some(window);
        let length = (suggestion.end - suggestion.start).max(Duration::ZERO);
        let drawn = suggestion.start + length * fastrand::f64();
        // A window may reach beyond the certificate's end, and the certificate must not.
        self.at = if drawn > self.latest { self.own } else { drawn };
    }

    /// Schedules another request after one that failed.
    pub(super) fn look_soon(&mut self, now: OffsetDateTime) {
        self.next_look = now + LOOK_AGAIN;
    }

    /// Schedules another request while there is no information.
    pub(super) fn look_later(&mut self, now: OffsetDateTime) {
        self.next_look = now + DEFAULT_LOOK;
    }
}

/// Asks the authority when to renew; `None` if it has no renewal information.
pub(super) async fn suggestion(
    account: &Account,
    id: &CertificateIdentifier<'_>,
) -> Result<Option<Suggestion>, Error> {
    if account.server.directory.renewal_info.is_none() {
        return Ok(None);
    }
    let (library, transport) = account.library().await?;
    let answered = library.renewal_info(id).await;
    let (information, _) = answered.map_err(|error| error_from("renewal information", error))?;
    if let Some(explanation) = &information.explanation_url {
        tracing::info!(%explanation, "the certificate authority explains when it wants a certificate renewed");
    }
    let asked = transport.retry_after().map_or(DEFAULT_LOOK, |after| after.try_into().unwrap_or(LATEST_LOOK));
    Suggestion::of(&information.suggested_window, asked).map(Some)
}

impl Suggestion {
    fn of(window: &SuggestedWindow, asked: Duration) -> Result<Self, Error> {
        if window.end <= window.start {
            return Err(Error::network("renewal information: the window ends before it begins"));
        }
        let look_again = asked.clamp(SOONEST_LOOK, LATEST_LOOK);
        Ok(Self { start: window.start, end: window.end, look_again })
    }
}

/// Returns a number between 0 and 1 that is always the same for one certificate.
fn share(facts: &Facts) -> f64 {
    let id = facts.id.as_ref().map(ToString::to_string);
    let text = id.iter().chain(&facts.names).flat_map(|text| text.bytes());
    // FNV-1a.
    let hash = text
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// Returns how long before its end a certificate with this lifetime is renewed.
fn lead(lifetime: Duration) -> Duration {
    if lifetime <= SHORT_LIFE { lifetime / 2 } else { lifetime / 3 }
}

/// Returns the same by `certificatesDuration`, as Traefik does.
fn of_duration(hours: u32) -> Duration {
    match hours {
        8760.. => Duration::days(120),
        2160.. => Duration::days(30),
        720.. => Duration::days(10),
        144.. => Duration::days(2),
        24.. => Duration::hours(6),
        _ => Duration::minutes(20),
    }
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    /// A suggestion as an authority sends it.
    fn parse(start: &str, end: &str, asked: Duration) -> Result<Suggestion, Error> {
        let window = serde_json::json!({ "start": start, "end": end });
        let window = serde_json::from_value(window).map_err(|error| Error::network(error.to_string()))?;
        Suggestion::of(&window, asked)
    }

    fn facts(lifetime: Duration) -> Facts {
        let not_before = OffsetDateTime::UNIX_EPOCH;
        Facts {
            names: Vec::new(),
            issuer: String::new(),
            not_before,
            not_after: not_before + lifetime,
            id: None,
        }
    }

    #[test]
    fn a_third_of_the_life_is_left_and_half_of_a_short_one() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for (days, hours, low, high) in [
            (90, DEFAULT_HOURS, 58.0, 60.0),
            (6, DEFAULT_HOURS, 2.8, 3.0),
            (365, 8760, 237.0, 245.0),
            (6, 144, 3.8, 4.0),
            // A duration that is not the certificate's must not make it be renewed all the time.
            (6, 8760, 2.8, 3.0),
        ] {
            let at = Renewal::by_lifetime(&facts(Duration::days(days)), hours, now).at - now;
            let at = at.as_seconds_f64() / 86400.0;
            assert!((low..=high).contains(&at), "{days} days, {hours} h: {at}");
        }
    }

    #[test]
    fn the_authority_says_when() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(365);
        let mut renewal = Renewal::by_lifetime(&facts(Duration::days(90)), DEFAULT_HOURS, now);
        let future = parse("1970-03-01T00:00:00Z", "1970-03-03T00:00:00Z", Duration::seconds(5)).unwrap();
        renewal.follow(&future, now);
        let drawn = renewal.at;
        assert!((future.start..=future.end).contains(&drawn));
        assert_eq!(renewal.next_look, now + SOONEST_LOOK);
        renewal.follow(&future, now);
        assert_eq!(renewal.at, drawn, "drawn once");
        // A revoked certificate: the window is over.
        let past = parse("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z", Duration::hours(6)).unwrap();
        renewal.follow(&past, now);
        assert!(renewal.at < now);
    }

    #[test]
    fn no_suggestion_lets_a_certificate_lapse() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let text = |at: OffsetDateTime| at.format(&Rfc3339).unwrap();
        // A day around the middle of half a minute.
        let (start, end) = (text(now - Duration::DAY), text(now + Duration::DAY));
        let suggestion = parse(&start, &end, Duration::hours(6)).unwrap();
        for _ in 0..100 {
            let mut renewal = Renewal::by_lifetime(&facts(Duration::seconds(30)), DEFAULT_HOURS, now);
            renewal.follow(&suggestion, now);
            assert!(renewal.at <= now + Duration::seconds(22), "{}", renewal.at);
        }
    }

    #[test]
    fn what_is_no_window_is_told() {
        assert!(parse("2000-01-03T00:00:00Z", "2000-01-01T00:00:00Z", Duration::ZERO).is_err());
        assert!(parse("soon", "later", Duration::ZERO).is_err());
    }
}
