//! Providers from E to M.

use std::collections::HashMap;

use dns_update::DnsUpdater;
use dns_update::providers::edgedns::EdgeDnsConfig;
use dns_update::providers::google_cloud_dns::GoogleCloudDnsConfig;
use dns_update::providers::infoblox::InfobloxConfig;
use dns_update::providers::joker::JokerAuth;
use dns_update::providers::lightsail::LightsailConfig;

use super::super::variables::missing;
use super::entry::Variable::{Fixed, Instead, Optional, Required};
use super::entry::{Capacity, Entry, Given, Times, Zone, at_least, entry, times};
use crate::error::Error;

pub(super) static ENTRIES: &[Entry] = &[
    entry(
        &["easydns"],
        "EasyDNS",
        &["EASYDNS"],
        times(120, 60, 2, 30),
        &[
            Required(&["EASYDNS_TOKEN"]),
            Required(&["EASYDNS_KEY"]),
            Fixed("EASYDNS_ENDPOINT", &["https://rest.easydns.net"]),
        ],
        |given| {
            let (token, key) = (given.get("EASYDNS_TOKEN"), given.get("EASYDNS_KEY"));
            Ok(DnsUpdater::new_easydns(token, key, given.timeout())?)
        },
    ),
    entry(
        &["edgedns", "fastdns"],
        "Akamai EdgeDNS",
        &["AKAMAI"],
        times(120, 180, 15, 0),
        &[
            Required(&["AKAMAI_HOST"]),
            Required(&["AKAMAI_CLIENT_TOKEN"]),
            Required(&["AKAMAI_CLIENT_SECRET"]),
            Required(&["AKAMAI_ACCESS_TOKEN"]),
            Optional(&["AKAMAI_ACCOUNT_SWITCH_KEY"]),
            Instead("AKAMAI_EDGERC"),
            Instead("AKAMAI_EDGERC_SECTION"),
        ],
        |given| {
            Ok(DnsUpdater::new_edgedns(EdgeDnsConfig {
                host: given.get("AKAMAI_HOST").to_owned(),
                client_token: given.get("AKAMAI_CLIENT_TOKEN").to_owned(),
                client_secret: given.get("AKAMAI_CLIENT_SECRET").to_owned(),
                access_token: given.get("AKAMAI_ACCESS_TOKEN").to_owned(),
                account_switch_key: given.owned("AKAMAI_ACCOUNT_SWITCH_KEY"),
                request_timeout: given.timeout(),
            })?)
        },
    ),
    entry(
        &["exoscale"],
        "Exoscale",
        &["EXOSCALE"],
        times(120, 60, 2, 60),
        &[
            Required(&["EXOSCALE_API_KEY"]),
            Required(&["EXOSCALE_API_SECRET"]),
            Fixed("EXOSCALE_ENDPOINT", &["https://api-ch-gva-2.exoscale.com/v2"]),
        ],
        |given| {
            let (key, secret) = (given.get("EXOSCALE_API_KEY"), given.get("EXOSCALE_API_SECRET"));
            Ok(DnsUpdater::new_exoscale(key, secret, given.timeout())?)
        },
    ),
    entry(
        &["freemyip"],
        "freemyip.com",
        &["FREEMYIP"],
        times(3600, 60, 2, 30),
        &[Required(&["FREEMYIP_TOKEN"])],
        |given| Ok(DnsUpdater::new_freemyip(given.get("FREEMYIP_TOKEN"), given.timeout())?),
    )
    .zone(Zone::Unused)
    .values(Capacity::PerName),
    entry(
        &["gandiv5"],
        "Gandi Live DNS (v5)",
        &["GANDIV5"],
        at_least(300, 1200, 20, 10),
        &[Required(&["GANDIV5_PERSONAL_ACCESS_TOKEN"]), Instead("GANDIV5_API_KEY")],
        |given| Ok(DnsUpdater::new_gandiv5(given.get("GANDIV5_PERSONAL_ACCESS_TOKEN"), given.timeout())?),
    )
    .with_stand_in(),
    entry(
        &["gcloud"],
        "Google Cloud",
        &["GCE"],
        times(120, 180, 5, 0),
        &[
            Required(&["GCE_SERVICE_ACCOUNT"]),
            Optional(&["GCE_PROJECT"]),
            Optional(&["GCE_ZONE_ID"]),
            Optional(&["GCE_ALLOW_PRIVATE_ZONE"]),
            Optional(&["GCE_IMPERSONATE_SERVICE_ACCOUNT"]),
            Instead("GOOGLE_APPLICATION_CREDENTIALS"),
        ],
        google,
    )
    .zone(Zone::Unused),
    entry(
        &["gcore"],
        "G-Core",
        &["GCORE"],
        times(120, 360, 20, 10),
        &[Required(&["GCORE_PERMANENT_API_TOKEN"])],
        |given| Ok(DnsUpdater::new_gcore(given.get("GCORE_PERMANENT_API_TOKEN"), given.timeout())?),
    ),
    entry(
        &["glesys"],
        "Glesys",
        &["GLESYS"],
        at_least(60, 1200, 20, 10),
        &[Required(&["GLESYS_API_USER"]), Required(&["GLESYS_API_KEY"])],
        |given| {
            let (user, key) = (given.get("GLESYS_API_USER"), given.get("GLESYS_API_KEY"));
            Ok(DnsUpdater::new_glesys(user, key, given.timeout())?)
        },
    ),
    entry(
        &["godaddy"],
        "Go Daddy",
        &["GODADDY"],
        at_least(600, 120, 2, 30),
        &[Required(&["GODADDY_API_KEY"]), Required(&["GODADDY_API_SECRET"])],
        |given| {
            let (key, secret) = (given.get("GODADDY_API_KEY"), given.get("GODADDY_API_SECRET"));
            Ok(DnsUpdater::new_godaddy(key, secret, given.timeout())?)
        },
    ),
    entry(
        &["hetzner"],
        "Hetzner",
        &["HETZNER"],
        times(120, 60, 2, 30),
        &[Required(&["HETZNER_API_TOKEN"]), Instead("HETZNER_API_KEY")],
        |given| Ok(DnsUpdater::new_hetzner(given.get("HETZNER_API_TOKEN"), given.timeout())?),
    )
    .with_stand_in(),
    entry(
        &["hostingde"],
        "Hosting.de",
        &["HOSTINGDE"],
        times(120, 120, 2, 30),
        &[Required(&["HOSTINGDE_API_KEY"]), Optional(&["HOSTINGDE_ZONE_NAME"])],
        |given| Ok(DnsUpdater::new_hostingde(given.get("HOSTINGDE_API_KEY"), given.timeout())?),
    )
    .zone(Zone::Named("HOSTINGDE_ZONE_NAME")),
    entry(
        &["hostinger"],
        "Hostinger",
        &["HOSTINGER"],
        times(120, 60, 2, 30),
        &[Required(&["HOSTINGER_API_TOKEN"])],
        |given| Ok(DnsUpdater::new_hostinger(given.get("HOSTINGER_API_TOKEN"), given.timeout())?),
    )
    .with_quotes(),
    entry(
        &["huaweicloud"],
        "Huawei Cloud",
        &["HUAWEICLOUD"],
        times(300, 60, 2, 30),
        &[
            Required(&["HUAWEICLOUD_ACCESS_KEY_ID"]),
            Required(&["HUAWEICLOUD_SECRET_ACCESS_KEY"]),
            Required(&["HUAWEICLOUD_REGION"]),
        ],
        |given| {
            Ok(DnsUpdater::new_huaweicloud(
                given.get("HUAWEICLOUD_ACCESS_KEY_ID"),
                given.get("HUAWEICLOUD_SECRET_ACCESS_KEY"),
                given.get("HUAWEICLOUD_REGION"),
                given.timeout(),
            )?)
        },
    ),
    entry(
        &["hurricane"],
        "Hurricane Electric DNS",
        &["HURRICANE"],
        times(0, 300, 2, 30),
        &[Required(&["HURRICANE_TOKENS"])],
        |given| Ok(DnsUpdater::new_hurricane(pairs("HURRICANE_TOKENS", given)?, given.timeout())?),
    )
    .zone(Zone::Host)
    .values(Capacity::PerName),
    entry(
        &["ibmcloud"],
        "IBM Cloud (SoftLayer)",
        &["SOFTLAYER"],
        Times { http_variable: "TIMEOUT", ..times(120, 60, 2, 30) },
        &[Required(&["SOFTLAYER_USERNAME"]), Required(&["SOFTLAYER_API_KEY"])],
        |given| {
            let (user, key) = (given.get("SOFTLAYER_USERNAME"), given.get("SOFTLAYER_API_KEY"));
            Ok(DnsUpdater::new_ibmcloud(user, key, given.timeout())?)
        },
    ),
    entry(
        &["infoblox"],
        "Infoblox",
        &["INFOBLOX"],
        times(120, 60, 2, 30),
        &[
            Required(&["INFOBLOX_HOST"]),
            Required(&["INFOBLOX_USERNAME"]),
            Required(&["INFOBLOX_PASSWORD"]),
            Optional(&["INFOBLOX_PORT"]),
            Optional(&["INFOBLOX_DNS_VIEW"]),
            Optional(&["INFOBLOX_WAPI_VERSION"]),
            Fixed("INFOBLOX_SSL_VERIFY", &["true"]),
            Fixed("INFOBLOX_CA_CERTIFICATE", &[]),
        ],
        |given| {
            Ok(DnsUpdater::new_infoblox(InfobloxConfig {
                host: given.get("INFOBLOX_HOST").to_owned(),
                port: given.owned("INFOBLOX_PORT"),
                username: given.get("INFOBLOX_USERNAME").to_owned(),
                password: given.get("INFOBLOX_PASSWORD").to_owned(),
                wapi_version: given.owned("INFOBLOX_WAPI_VERSION"),
                dns_view: given.owned("INFOBLOX_DNS_VIEW"),
                request_timeout: given.timeout(),
            })?)
        },
    )
    .zone(Zone::Unused),
    entry(
        &["infomaniak"],
        "Infomaniak",
        &["INFOMANIAK"],
        times(300, 120, 10, 30),
        &[
            Required(&["INFOMANIAK_ACCESS_TOKEN"]),
            Fixed("INFOMANIAK_ENDPOINT", &["https://api.infomaniak.com"]),
        ],
        |given| Ok(DnsUpdater::new_infomaniak(given.get("INFOMANIAK_ACCESS_TOKEN"), given.timeout())?),
    ),
    entry(
        &["inwx"],
        "INWX",
        &["INWX"],
        times(300, 360, 2, 0),
        &[
            Required(&["INWX_USERNAME"]),
            Required(&["INWX_PASSWORD"]),
            Optional(&["INWX_SANDBOX"]),
            Fixed("INWX_SHARED_SECRET", &[]),
        ],
        |given| {
            let (user, password) = (given.get("INWX_USERNAME"), given.get("INWX_PASSWORD"));
            Ok(DnsUpdater::new_inwx(user, password, given.is_true("INWX_SANDBOX"), given.timeout())?)
        },
    ),
    entry(
        &["ionos"],
        "Ionos",
        &["IONOS"],
        at_least(300, 900, 2, 30),
        &[Required(&["IONOS_API_KEY"])],
        |given| Ok(DnsUpdater::new_ionos(given.get("IONOS_API_KEY"), given.timeout())?),
    ),
    entry(&["ipv64"], "IPv64", &["IPV64"], times(0, 60, 2, 30), &[Required(&["IPV64_API_KEY"])], |given| {
        Ok(DnsUpdater::new_ipv64(given.get("IPV64_API_KEY"), given.timeout())?)
    })
    .zone(Zone::Labels(3)),
    entry(
        &["joker"],
        "Joker",
        &["JOKER"],
        times(120, 120, 2, 60),
        &[
            Optional(&["JOKER_API_KEY"]),
            Optional(&["JOKER_USERNAME"]),
            Optional(&["JOKER_PASSWORD"]),
            Fixed("JOKER_API_MODE", &["DMAPI"]),
        ],
        |given| {
            let (user, password) = (given.optional("JOKER_USERNAME"), given.optional("JOKER_PASSWORD"));
            let auth = match (given.optional("JOKER_API_KEY"), user, password) {
                (Some(key), ..) => JokerAuth::api_key(key),
                (None, Some(user), Some(password)) => JokerAuth::username_password(user, password),
                _ => return Err(missing(&[&["JOKER_API_KEY", "JOKER_USERNAME and JOKER_PASSWORD"]])),
            };
            Ok(DnsUpdater::new_joker(auth, given.timeout())?)
        },
    ),
    entry(
        &["lightsail"],
        "Amazon Lightsail",
        &["LIGHTSAIL"],
        times(0, 60, 2, 0),
        &[
            Required(&["AWS_ACCESS_KEY_ID"]),
            Required(&["AWS_SECRET_ACCESS_KEY"]),
            Optional(&["AWS_SESSION_TOKEN"]),
            Optional(&["LIGHTSAIL_REGION"]),
            Optional(&["DNS_ZONE"]),
            Instead("AWS_PROFILE"),
            Instead("AWS_SHARED_CREDENTIALS_FILE"),
            Instead("AWS_WEB_IDENTITY_TOKEN_FILE"),
        ],
        |given| {
            Ok(DnsUpdater::new_lightsail(LightsailConfig {
                access_key_id: given.get("AWS_ACCESS_KEY_ID").to_owned(),
                secret_access_key: given.get("AWS_SECRET_ACCESS_KEY").to_owned(),
                session_token: given.owned("AWS_SESSION_TOKEN"),
                region: given.owned("LIGHTSAIL_REGION"),
                domain: given.owned("DNS_ZONE"),
                request_timeout: given.timeout(),
            })?)
        },
    )
    .zone(Zone::Named("DNS_ZONE")),
    entry(
        &["linode", "linodev4"],
        "Linode (v4)",
        &["LINODE"],
        at_least(300, 120, 15, 30),
        &[Required(&["LINODE_TOKEN"])],
        |given| Ok(DnsUpdater::new_linode(given.get("LINODE_TOKEN"), given.timeout())?),
    ),
    entry(
        &["luadns"],
        "LuaDNS",
        &["LUADNS"],
        at_least(300, 120, 2, 30),
        &[Required(&["LUADNS_API_USERNAME"]), Required(&["LUADNS_API_TOKEN"])],
        |given| {
            let (user, token) = (given.get("LUADNS_API_USERNAME"), given.get("LUADNS_API_TOKEN"));
            Ok(DnsUpdater::new_luadns(user, token, given.timeout())?)
        },
    ),
    entry(
        &["mythicbeasts"],
        "MythicBeasts",
        &["MYTHICBEASTS"],
        times(120, 60, 2, 10),
        &[
            Required(&["MYTHICBEASTS_USERNAME"]),
            Required(&["MYTHICBEASTS_PASSWORD"]),
            Fixed("MYTHICBEASTS_API_ENDPOINT", &["https://api.mythic-beasts.com/dns/v2"]),
            Fixed("MYTHICBEASTS_AUTH_API_ENDPOINT", &["https://auth.mythic-beasts.com/login"]),
        ],
        |given| {
            let (user, password) = (given.get("MYTHICBEASTS_USERNAME"), given.get("MYTHICBEASTS_PASSWORD"));
            Ok(DnsUpdater::new_mythicbeasts(user, password, given.timeout())?)
        },
    ),
];

fn google(given: &Given) -> Result<DnsUpdater, Error> {
    let account = given.get("GCE_SERVICE_ACCOUNT");
    let parsed: serde_json::Value = serde_json::from_str(account).unwrap_or_default();
    for field in ["client_email", "private_key", "token_uri"] {
        if !parsed[field].is_string() {
            return Err(Error::local(format!(
                "GCE_SERVICE_ACCOUNT: expected the JSON key of a service account: it has no `{field}`"
            )));
        }
    }
    let project = given.optional("GCE_PROJECT").or_else(|| parsed["project_id"].as_str());
    let project = project.ok_or_else(|| missing(&[&["GCE_PROJECT"]]))?;
    Ok(DnsUpdater::new_google_cloud_dns(GoogleCloudDnsConfig {
        service_account_json: account.to_owned(),
        project_id: project.to_owned(),
        managed_zone: given.owned("GCE_ZONE_ID"),
        private_zone: given.is_true("GCE_ALLOW_PRIVATE_ZONE"),
        impersonate_service_account: given.owned("GCE_IMPERSONATE_SERVICE_ACCOUNT"),
        request_timeout: given.timeout(),
    })?)
}

/// Parses `name:token,name:token`.
fn pairs(name: &'static str, given: &Given) -> Result<HashMap<String, String>, Error> {
    let pairs = given.get(name).trim_end_matches(',').split(',').map(|pair| pair.split_once(':'));
    let pairs: Option<HashMap<String, String>> = pairs
        .map(|pair| pair.map(|(host, token)| (host.trim().to_owned(), token.trim().to_owned())))
        .collect();
    pairs.ok_or_else(|| Error::local(format!("{name}: expected `name:token,name:token`")))
}
