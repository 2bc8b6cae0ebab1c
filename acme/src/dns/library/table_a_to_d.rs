//! Providers from A to D.

use dns_update::DnsUpdater;
use dns_update::providers::azuredns::{AzureDnsConfig, AzureEnvironment};
use dns_update::providers::bluecatv2::BluecatV2Config;
use http::Method;
use tidegate_core::BoxFuture;

use super::super::variables::missing;
use super::entry::Variable::{Fixed, Instead, Optional, Required};
use super::entry::{Capacity, Entry, Given, Zone, asking_entry, at_least, entry, times};
use crate::client::{Http, Message};
use crate::error::Error;

pub(super) static ENTRIES: &[Entry] = &[
    entry(
        &["alidns"],
        "Alibaba Cloud DNS",
        &["ALICLOUD"],
        times(600, 60, 2, 10),
        &[
            Required(&["ALICLOUD_ACCESS_KEY"]),
            Required(&["ALICLOUD_SECRET_KEY"]),
            Optional(&["ALICLOUD_SECURITY_TOKEN"]),
            Optional(&["ALICLOUD_REGION_ID"]),
            Optional(&["ALICLOUD_LINE"]),
            Instead("ALICLOUD_RAM_ROLE"),
        ],
        |given| {
            Ok(DnsUpdater::new_alidns(
                given.get("ALICLOUD_ACCESS_KEY"),
                given.get("ALICLOUD_SECRET_KEY"),
                given.optional("ALICLOUD_REGION_ID"),
                given.optional("ALICLOUD_SECURITY_TOKEN"),
                given.optional("ALICLOUD_LINE"),
                given.timeout(),
            )?)
        },
    ),
    entry(
        &["arvancloud"],
        "ArvanCloud",
        &["ARVANCLOUD"],
        at_least(600, 120, 2, 30),
        &[Required(&["ARVANCLOUD_API_KEY"])],
        |given| Ok(DnsUpdater::new_arvancloud(given.get("ARVANCLOUD_API_KEY"), given.timeout())?),
    ),
    entry(
        &["autodns"],
        "Autodns",
        &["AUTODNS"],
        times(600, 120, 2, 30),
        &[
            Required(&["AUTODNS_API_USER"]),
            Required(&["AUTODNS_API_PASSWORD"]),
            Optional(&["AUTODNS_CONTEXT"]),
            Fixed("AUTODNS_ENDPOINT", &["https://api.autodns.com/v1"]),
        ],
        |given| {
            let context = given.optional("AUTODNS_CONTEXT").map(str::parse).transpose();
            let context = context.map_err(|_| Error::local("AUTODNS_CONTEXT: expected a number"))?;
            let (user, password) = (given.get("AUTODNS_API_USER"), given.get("AUTODNS_API_PASSWORD"));
            Ok(DnsUpdater::new_autodns(user, password, context, given.timeout())?)
        },
    ),
    entry(
        &["azuredns", "azure"],
        "Azure DNS",
        &["AZURE"],
        times(60, 120, 2, 0),
        &[
            Required(&["AZURE_TENANT_ID"]),
            Required(&["AZURE_CLIENT_ID"]),
            Required(&["AZURE_CLIENT_SECRET"]),
            Required(&["AZURE_SUBSCRIPTION_ID"]),
            Required(&["AZURE_RESOURCE_GROUP"]),
            Optional(&["AZURE_ENVIRONMENT"]),
            Optional(&["AZURE_ZONE_NAME"]),
            Instead("AZURE_CLIENT_CERTIFICATE_PATH"),
            Instead("AZURE_FEDERATED_TOKEN_FILE"),
            Instead("AZURE_OIDC_TOKEN"),
            Instead("AZURE_OIDC_TOKEN_FILE_PATH"),
            Instead("AZURE_OIDC_REQUEST_URL"),
            Instead("AZURE_SERVICEDISCOVERY_FILTER"),
            Fixed("AZURE_AUTH_METHOD", &["env"]),
            Fixed("AZURE_PRIVATE_ZONE", &["false"]),
        ],
        azure,
    )
    .zone(Zone::Named("AZURE_ZONE_NAME")),
    entry(
        &["baiducloud"],
        "Baidu Cloud",
        &["BAIDUCLOUD"],
        times(300, 60, 2, 0),
        &[Required(&["BAIDUCLOUD_ACCESS_KEY_ID"]), Required(&["BAIDUCLOUD_SECRET_ACCESS_KEY"])],
        |given| {
            let (id, secret) =
                (given.get("BAIDUCLOUD_ACCESS_KEY_ID"), given.get("BAIDUCLOUD_SECRET_ACCESS_KEY"));
            Ok(DnsUpdater::new_baiducloud(id, secret, given.timeout())?)
        },
    ),
    entry(
        &["bluecatv2"],
        "Bluecat v2",
        &["BLUECATV2"],
        times(120, 60, 2, 30),
        &[
            Required(&["BLUECATV2_SERVER_URL"]),
            Required(&["BLUECATV2_USERNAME"]),
            Required(&["BLUECATV2_PASSWORD"]),
            Required(&["BLUECATV2_CONFIG_NAME"]),
            Required(&["BLUECATV2_VIEW_NAME"]),
            Optional(&["BLUECATV2_SKIP_DEPLOY"]),
        ],
        |given| {
            Ok(DnsUpdater::new_bluecatv2(BluecatV2Config {
                server_url: given.get("BLUECATV2_SERVER_URL").to_owned(),
                username: given.get("BLUECATV2_USERNAME").to_owned(),
                password: given.get("BLUECATV2_PASSWORD").to_owned(),
                config_name: given.get("BLUECATV2_CONFIG_NAME").to_owned(),
                view_name: given.get("BLUECATV2_VIEW_NAME").to_owned(),
                skip_deploy: given.is_true("BLUECATV2_SKIP_DEPLOY"),
                request_timeout: given.timeout(),
            })?)
        },
    ),
    entry(
        &["bunny"],
        "Bunny",
        &["BUNNY"],
        at_least(60, 120, 2, 30),
        &[Required(&["BUNNY_API_KEY"])],
        |given| Ok(DnsUpdater::new_bunny(given.get("BUNNY_API_KEY"), given.timeout())?),
    ),
    entry(
        &["cloudns"],
        "ClouDNS",
        &["CLOUDNS"],
        times(60, 180, 10, 30),
        &[
            Required(&["CLOUDNS_AUTH_PASSWORD"]),
            Optional(&["CLOUDNS_AUTH_ID"]),
            Optional(&["CLOUDNS_SUB_AUTH_ID"]),
        ],
        |given| {
            let (id, sub) = (given.optional("CLOUDNS_AUTH_ID"), given.optional("CLOUDNS_SUB_AUTH_ID"));
            if id.or(sub).is_none() {
                return Err(missing(&[&["CLOUDNS_AUTH_ID", "CLOUDNS_SUB_AUTH_ID"]]));
            }
            Ok(DnsUpdater::new_cloudns(id, sub, given.get("CLOUDNS_AUTH_PASSWORD"), given.timeout())?)
        },
    ),
    entry(
        &["constellix"],
        "Constellix",
        &["CONSTELLIX"],
        times(60, 60, 10, 30),
        &[Required(&["CONSTELLIX_API_KEY"]), Required(&["CONSTELLIX_SECRET_KEY"])],
        |given| {
            let (key, secret) = (given.get("CONSTELLIX_API_KEY"), given.get("CONSTELLIX_SECRET_KEY"));
            Ok(DnsUpdater::new_constellix(key, secret, given.timeout())?)
        },
    ),
    entry(
        &["cpanel"],
        "CPanel",
        &["CPANEL"],
        times(300, 120, 2, 30),
        &[
            Required(&["CPANEL_USERNAME"]),
            Required(&["CPANEL_TOKEN"]),
            Required(&["CPANEL_BASE_URL"]),
            Fixed("CPANEL_MODE", &["cpanel"]),
        ],
        |given| {
            let (url, user) = (given.get("CPANEL_BASE_URL"), given.get("CPANEL_USERNAME"));
            Ok(DnsUpdater::new_cpanel(url, user, given.get("CPANEL_TOKEN"), given.timeout())?)
        },
    ),
    entry(
        &["ddnss"],
        "DDnss (DynDNS Service)",
        &["DDNSS"],
        times(120, 60, 2, 30),
        &[Required(&["DDNSS_KEY"])],
        |given| Ok(DnsUpdater::new_ddnss(given.get("DDNSS_KEY"), given.timeout())?),
    )
    .zone(Zone::Unused)
    .values(Capacity::PerName),
    entry(
        &["desec"],
        "deSEC.io",
        &["DESEC"],
        times(3600, 120, 4, 30),
        &[Required(&["DESEC_TOKEN"])],
        |given| Ok(DnsUpdater::new_desec(given.get("DESEC_TOKEN"), given.timeout())?),
    )
    .with_stand_in(),
    entry(
        &["digitalocean"],
        "Digital Ocean",
        &["DO"],
        times(30, 60, 5, 30),
        &[Required(&["DO_AUTH_TOKEN"]), Fixed("DO_API_URL", &["https://api.digitalocean.com"])],
        |given| Ok(DnsUpdater::new_digitalocean(given.get("DO_AUTH_TOKEN"), given.timeout())?),
    )
    .with_stand_in(),
    asking_entry(
        &["dnsimple"],
        "DNSimple",
        &["DNSIMPLE"],
        times(120, 60, 2, 0),
        &[Required(&["DNSIMPLE_OAUTH_TOKEN"]), Fixed("DNSIMPLE_BASE_URL", &["https://api.dnsimple.com"])],
        dnsimple,
    ),
    entry(
        &["dnsmadeeasy"],
        "DNS Made Easy",
        &["DNSMADEEASY"],
        times(120, 60, 2, 10),
        &[
            Required(&["DNSMADEEASY_API_KEY"]),
            Required(&["DNSMADEEASY_API_SECRET"]),
            Fixed("DNSMADEEASY_SANDBOX", &["false"]),
        ],
        |given| {
            let (key, secret) = (given.get("DNSMADEEASY_API_KEY"), given.get("DNSMADEEASY_API_SECRET"));
            Ok(DnsUpdater::new_dnsmadeeasy(key, secret, given.timeout())?)
        },
    ),
    entry(
        &["domeneshop", "domainnameshop"],
        "Domeneshop",
        &["DOMENESHOP"],
        times(0, 300, 20, 30),
        &[Required(&["DOMENESHOP_API_TOKEN"]), Required(&["DOMENESHOP_API_SECRET"])],
        |given| {
            let (token, secret) = (given.get("DOMENESHOP_API_TOKEN"), given.get("DOMENESHOP_API_SECRET"));
            Ok(DnsUpdater::new_domeneshop(token, secret, given.timeout())?)
        },
    ),
    entry(
        &["dreamhost"],
        "DreamHost",
        &["DREAMHOST"],
        times(0, 3600, 60, 30),
        &[Required(&["DREAMHOST_API_KEY"])],
        |given| Ok(DnsUpdater::new_dreamhost(given.get("DREAMHOST_API_KEY"), given.timeout())?),
    )
    .zone(Zone::Unused),
    entry(
        &["duckdns"],
        "Duck DNS",
        &["DUCKDNS"],
        times(0, 60, 2, 30),
        &[Required(&["DUCKDNS_TOKEN"])],
        |given| Ok(DnsUpdater::new_duckdns(given.get("DUCKDNS_TOKEN"), given.timeout())?),
    )
    .zone(Zone::Unused)
    .values(Capacity::PerHost)
    .with_stand_in(),
    entry(&["dynu"], "Dynu", &["DYNU"], times(300, 180, 10, 30), &[Required(&["DYNU_API_KEY"])], |given| {
        Ok(DnsUpdater::new_dynu(given.get("DYNU_API_KEY"), given.timeout())?)
    })
    .zone(Zone::Unused),
];

fn azure(given: &Given) -> Result<DnsUpdater, Error> {
    let environment = match given.optional("AZURE_ENVIRONMENT") {
        None => AzureEnvironment::Public,
        Some(name) if ["public", "usgovernment", "china"].contains(&name.to_lowercase().as_str()) => {
            AzureEnvironment::from_str_lossy(name)
        }
        Some(name) => {
            return Err(Error::local(format!(
                "AZURE_ENVIRONMENT: unknown environment `{name}`: expected `public`, `usgovernment` or `china`"
            )));
        }
    };
    Ok(DnsUpdater::new_azuredns(AzureDnsConfig {
        tenant_id: given.get("AZURE_TENANT_ID").to_owned(),
        client_id: given.get("AZURE_CLIENT_ID").to_owned(),
        client_secret: given.get("AZURE_CLIENT_SECRET").to_owned(),
        subscription_id: given.get("AZURE_SUBSCRIPTION_ID").to_owned(),
        resource_group: given.get("AZURE_RESOURCE_GROUP").to_owned(),
        environment,
        request_timeout: given.timeout(),
    })?)
}

/// Asks for the number of the account, which lego does not want to be told either.
fn dnsimple(given: &Given) -> BoxFuture<'_, Result<DnsUpdater, Error>> {
    Box::pin(async {
        let url = "https://api.dnsimple.com/v2/whoami";
        let token = given.get("DNSIMPLE_OAUTH_TOKEN");
        let message =
            Message { headers: vec![("authorization", format!("Bearer {token}"))], ..Message::default() };
        let answer = Http::plain(given.timeout().unwrap_or_default()).send(Method::GET, url, message).await?;
        let account = match answer.status.is_success() {
            true => answer.json::<serde_json::Value>(url)?["data"]["account"]["id"].as_u64(),
            false => {
                return Err(Error::dns(format!("{url}: status {}: {}", answer.status, answer.excerpt())));
            }
        };
        let account = account.ok_or_else(|| {
            Error::dns("DNSIMPLE_OAUTH_TOKEN: it belongs to a user: expected the token of an account")
        })?;
        Ok(DnsUpdater::new_dnsimple(token, account.to_string(), given.timeout())?)
    })
}
