//! Providers from N to Z.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dns_update::DnsUpdater;
use dns_update::providers::oraclecloud::OracleCloudConfig;
use dns_update::providers::ovh::OvhEndpoint;
use dns_update::providers::volcengine::VolcengineConfig;
use dns_update::providers::yandexcloud::YandexCloudConfig;
use http::Method;
use tidegate_core::BoxFuture;

use super::super::variables::missing;
use super::entry::Variable::{Fixed, Instead, Optional, Required};
use super::entry::{Entry, Given, asking_entry, at_least, entry, times};
use crate::client::{Http, Message};
use crate::error::Error;

pub(super) static ENTRIES: &[Entry] = &[
    asking_entry(
        &["namecheap"],
        "Namecheap",
        &["NAMECHEAP"],
        times(120, 3600, 15, 60),
        &[
            Required(&["NAMECHEAP_API_USER"]),
            Required(&["NAMECHEAP_API_KEY"]),
            Fixed("NAMECHEAP_SANDBOX", &["false"]),
        ],
        namecheap,
    ),
    entry(
        &["namedotcom"],
        "Name.com",
        &["NAMECOM"],
        at_least(300, 900, 20, 10),
        &[
            Required(&["NAMECOM_USERNAME"]),
            Required(&["NAMECOM_API_TOKEN"]),
            Fixed("NAMECOM_SERVER", &["https://api.name.com", "api.name.com"]),
        ],
        |given| {
            let (user, token) = (given.get("NAMECOM_USERNAME"), given.get("NAMECOM_API_TOKEN"));
            Ok(DnsUpdater::new_namedotcom(user, token, given.timeout())?)
        },
    ),
    entry(
        &["namesilo"],
        "Namesilo",
        &["NAMESILO"],
        at_least(3600, 60, 2, 0),
        &[Required(&["NAMESILO_API_KEY"])],
        |given| Ok(DnsUpdater::new_namesilo(given.get("NAMESILO_API_KEY"), given.timeout())?),
    ),
    entry(
        &["netcup"],
        "Netcup",
        &["NETCUP"],
        times(0, 900, 30, 10),
        &[
            Required(&["NETCUP_CUSTOMER_NUMBER"]),
            Required(&["NETCUP_API_KEY"]),
            Required(&["NETCUP_API_PASSWORD"]),
        ],
        |given| {
            Ok(DnsUpdater::new_netcup(
                given.get("NETCUP_CUSTOMER_NUMBER"),
                given.get("NETCUP_API_KEY"),
                given.get("NETCUP_API_PASSWORD"),
                given.timeout(),
            )?)
        },
    ),
    entry(
        &["netlify"],
        "Netlify",
        &["NETLIFY"],
        times(300, 60, 2, 30),
        &[Required(&["NETLIFY_TOKEN"])],
        |given| Ok(DnsUpdater::new_netlify(given.get("NETLIFY_TOKEN"), given.timeout())?),
    ),
    entry(
        &["nifcloud"],
        "NIFCloud",
        &["NIFCLOUD"],
        times(120, 60, 2, 30),
        &[
            Required(&["NIFCLOUD_ACCESS_KEY_ID"]),
            Required(&["NIFCLOUD_SECRET_ACCESS_KEY"]),
            Fixed("NIFCLOUD_DNS_ENDPOINT", &["https://dns.api.nifcloud.com"]),
        ],
        |given| {
            let (id, secret) = (given.get("NIFCLOUD_ACCESS_KEY_ID"), given.get("NIFCLOUD_SECRET_ACCESS_KEY"));
            Ok(DnsUpdater::new_nifcloud(id, secret, given.timeout())?)
        },
    ),
    entry(&["ns1"], "NS1", &["NS1"], times(120, 60, 2, 10), &[Required(&["NS1_API_KEY"])], |given| {
        Ok(DnsUpdater::new_ns1(given.get("NS1_API_KEY"), given.timeout())?)
    }),
    entry(
        &["oraclecloud"],
        "Oracle Cloud",
        &["OCI"],
        times(120, 60, 2, 60),
        &[
            Required(&["OCI_COMPARTMENT_OCID"]),
            Required(&["OCI_REGION", "TF_VAR_region"]),
            Required(&["OCI_TENANCY_OCID", "TF_VAR_tenancy_ocid"]),
            Required(&["OCI_USER_OCID", "TF_VAR_user_ocid"]),
            Required(&["OCI_PUBKEY_FINGERPRINT", "OCI_FINGERPRINT", "TF_VAR_fingerprint"]),
            Optional(&["OCI_PRIVKEY", "OCI_PRIVATE_KEY"]),
            Optional(&["OCI_PRIVATE_KEY_PATH", "TF_VAR_private_key_path"]),
            Fixed("OCI_PRIVKEY_PASS", &[]),
            Fixed("OCI_PRIVATE_KEY_PASSWORD", &[]),
            Fixed("TF_VAR_private_key_password", &[]),
            Fixed("OCI_AUTH_TYPE", &[]),
        ],
        oracle,
    ),
    entry(
        &["ovh"],
        "OVH",
        &["OVH"],
        times(120, 60, 2, 180),
        &[
            Required(&["OVH_APPLICATION_KEY"]),
            Required(&["OVH_APPLICATION_SECRET"]),
            Required(&["OVH_CONSUMER_KEY"]),
            Optional(&["OVH_ENDPOINT"]),
            Instead("OVH_CLIENT_ID"),
            Instead("OVH_CLIENT_SECRET"),
            Instead("OVH_ACCESS_TOKEN"),
        ],
        |given| {
            let endpoint = given.optional("OVH_ENDPOINT").unwrap_or("ovh-eu");
            let endpoint: OvhEndpoint = endpoint.parse().map_err(|_| {
                Error::local(format!(
                    "OVH_ENDPOINT: unknown endpoint `{endpoint}`: expected ovh-eu, ovh-us, ovh-ca, kimsufi-eu, \
                     kimsufi-ca, soyoustart-eu or soyoustart-ca"
                ))
            })?;
            Ok(DnsUpdater::new_ovh(
                given.get("OVH_APPLICATION_KEY"),
                given.get("OVH_APPLICATION_SECRET"),
                given.get("OVH_CONSUMER_KEY"),
                endpoint,
                given.timeout(),
            )?)
        },
    )
    .with_quotes()
    .with_stand_in(),
    entry(
        &["pdns"],
        "PowerDNS",
        &["PDNS"],
        times(120, 120, 2, 30),
        &[
            Required(&["PDNS_API_KEY"]),
            Required(&["PDNS_API_URL"]),
            Optional(&["PDNS_SERVER_NAME"]),
            Fixed("PDNS_API_VERSION", &["1", "0"]),
        ],
        |given| {
            Ok(DnsUpdater::new_pdns(
                given.get("PDNS_API_KEY"),
                given.optional("PDNS_API_URL"),
                given.optional("PDNS_SERVER_NAME"),
                given.timeout(),
            )?)
        },
    )
    .with_stand_in(),
    entry(
        &["plesk"],
        "plesk.com",
        &["PLESK"],
        times(300, 60, 2, 30),
        &[
            Required(&["PLESK_SERVER_BASE_URL"]),
            Required(&["PLESK_API_KEY"]),
            Instead("PLESK_USERNAME"),
            Instead("PLESK_PASSWORD"),
        ],
        |given| {
            let (url, key) = (given.get("PLESK_SERVER_BASE_URL"), given.get("PLESK_API_KEY"));
            Ok(DnsUpdater::new_plesk(url, key, given.timeout())?)
        },
    ),
    entry(
        &["porkbun"],
        "Porkbun",
        &["PORKBUN"],
        at_least(300, 600, 10, 30),
        &[Required(&["PORKBUN_API_KEY"]), Required(&["PORKBUN_SECRET_API_KEY"])],
        |given| {
            let (key, secret) = (given.get("PORKBUN_API_KEY"), given.get("PORKBUN_SECRET_API_KEY"));
            Ok(DnsUpdater::new_porkbun(key, secret, given.timeout())?)
        },
    )
    .with_stand_in(),
    entry(
        &["safedns"],
        "UKFast SafeDNS",
        &["SAFEDNS"],
        times(120, 60, 2, 30),
        &[Required(&["SAFEDNS_AUTH_TOKEN"])],
        |given| Ok(DnsUpdater::new_safedns(given.get("SAFEDNS_AUTH_TOKEN"), given.timeout())?),
    ),
    entry(
        &["scaleway"],
        "Scaleway",
        &["SCALEWAY", "SCW"],
        at_least(60, 120, 10, 30),
        &[Required(&["SCW_SECRET_KEY", "SCALEWAY_API_TOKEN"])],
        |given| Ok(DnsUpdater::new_scaleway(given.get("SCW_SECRET_KEY"), given.timeout())?),
    ),
    entry(
        &["selectelv2"],
        "Selectel v2",
        &["SELECTELV2"],
        times(60, 120, 5, 30),
        &[
            Required(&["SELECTELV2_USERNAME"]),
            Required(&["SELECTELV2_PASSWORD"]),
            Required(&["SELECTELV2_ACCOUNT_ID"]),
            Required(&["SELECTELV2_PROJECT_ID"]),
            Fixed("SELECTELV2_BASE_URL", &["https://api.selectel.ru/domains/v2"]),
            Fixed("SELECTELV2_AUTH_URL", &["https://cloud.api.selcloud.ru/identity/v3"]),
            Fixed("SELECTELV2_AUTH_REGION", &["ru-1"]),
            Fixed("SELECTELV2_USER_DOMAIN_NAME", &[]),
        ],
        |given| {
            Ok(DnsUpdater::new_selectel(
                given.get("SELECTELV2_USERNAME"),
                given.get("SELECTELV2_PASSWORD"),
                given.get("SELECTELV2_ACCOUNT_ID"),
                given.get("SELECTELV2_PROJECT_ID"),
                given.timeout(),
            )?)
        },
    ),
    entry(
        &["simply"],
        "Simply.com",
        &["SIMPLY"],
        times(120, 300, 10, 30),
        &[Required(&["SIMPLY_ACCOUNT_NAME"]), Required(&["SIMPLY_API_KEY"])],
        |given| {
            let (account, key) = (given.get("SIMPLY_ACCOUNT_NAME"), given.get("SIMPLY_API_KEY"));
            Ok(DnsUpdater::new_simplycom(account, key, given.timeout())?)
        },
    ),
    entry(
        &["spaceship"],
        "Spaceship",
        &["SPACESHIP"],
        times(120, 60, 2, 30),
        &[Required(&["SPACESHIP_API_KEY"]), Required(&["SPACESHIP_API_SECRET"])],
        |given| {
            let (key, secret) = (given.get("SPACESHIP_API_KEY"), given.get("SPACESHIP_API_SECRET"));
            Ok(DnsUpdater::new_spaceship(key, secret, given.timeout())?)
        },
    ),
    entry(
        &["tencentcloud"],
        "Tencent Cloud DNS",
        &["TENCENTCLOUD"],
        times(600, 60, 2, 30),
        &[
            Required(&["TENCENTCLOUD_SECRET_ID"]),
            Required(&["TENCENTCLOUD_SECRET_KEY"]),
            Optional(&["TENCENTCLOUD_REGION"]),
            Optional(&["TENCENTCLOUD_SESSION_TOKEN"]),
        ],
        |given| {
            Ok(DnsUpdater::new_tencentcloud(
                given.get("TENCENTCLOUD_SECRET_ID"),
                given.get("TENCENTCLOUD_SECRET_KEY"),
                given.optional("TENCENTCLOUD_REGION"),
                given.optional("TENCENTCLOUD_SESSION_TOKEN"),
                given.timeout(),
            )?)
        },
    ),
    entry(
        &["transip"],
        "TransIP",
        &["TRANSIP"],
        times(10, 600, 10, 30),
        &[Required(&["TRANSIP_ACCOUNT_NAME"]), Required(&["TRANSIP_PRIVATE_KEY_PATH"])],
        |given| {
            let key = read("TRANSIP_PRIVATE_KEY_PATH", given)?;
            // As in lego, the token may be used from any address.
            Ok(DnsUpdater::new_transip(given.get("TRANSIP_ACCOUNT_NAME"), key, true, given.timeout())?)
        },
    ),
    entry(
        &["ultradns"],
        "Ultradns",
        &["ULTRADNS"],
        times(120, 120, 4, 0),
        &[
            Required(&["ULTRADNS_USERNAME"]),
            Required(&["ULTRADNS_PASSWORD"]),
            Optional(&["ULTRADNS_ENDPOINT"]),
        ],
        |given| {
            Ok(DnsUpdater::new_ultradns(
                given.get("ULTRADNS_USERNAME"),
                given.get("ULTRADNS_PASSWORD"),
                given.owned("ULTRADNS_ENDPOINT"),
                given.timeout(),
            )?)
        },
    ),
    entry(
        &["vercel"],
        "Vercel",
        &["VERCEL"],
        times(60, 60, 5, 30),
        &[Required(&["VERCEL_API_TOKEN"]), Optional(&["VERCEL_TEAM_ID"])],
        |given| {
            let team = given.optional("VERCEL_TEAM_ID");
            Ok(DnsUpdater::new_vercel(given.get("VERCEL_API_TOKEN"), team, given.timeout())?)
        },
    ),
    entry(
        &["volcengine"],
        "Volcano Engine/火山引擎",
        &["VOLC"],
        times(600, 240, 10, 15),
        &[
            Required(&["VOLC_ACCESSKEY"]),
            Required(&["VOLC_SECRETKEY"]),
            Optional(&["VOLC_REGION"]),
            Optional(&["VOLC_HOST"]),
            Optional(&["VOLC_SCHEME"]),
        ],
        |given| {
            Ok(DnsUpdater::new_volcengine(VolcengineConfig {
                access_key: given.get("VOLC_ACCESSKEY").to_owned(),
                secret_key: given.get("VOLC_SECRETKEY").to_owned(),
                region: given.owned("VOLC_REGION"),
                host: given.owned("VOLC_HOST"),
                scheme: given.owned("VOLC_SCHEME"),
                request_timeout: given.timeout(),
            })?)
        },
    ),
    entry(&["vultr"], "Vultr", &["VULTR"], times(120, 60, 2, 30), &[Required(&["VULTR_API_KEY"])], |given| {
        Ok(DnsUpdater::new_vultr(given.get("VULTR_API_KEY"), given.timeout())?)
    }),
    entry(
        &["websupport"],
        "Websupport",
        &["WEBSUPPORT"],
        times(120, 60, 2, 30),
        &[Required(&["WEBSUPPORT_API_KEY"]), Required(&["WEBSUPPORT_SECRET"])],
        |given| {
            let (key, secret) = (given.get("WEBSUPPORT_API_KEY"), given.get("WEBSUPPORT_SECRET"));
            Ok(DnsUpdater::new_websupport(key, secret, given.timeout())?)
        },
    ),
    entry(
        &["yandexcloud"],
        "Yandex Cloud",
        &["YANDEX_CLOUD"],
        times(60, 60, 2, 0),
        &[Required(&["YANDEX_CLOUD_IAM_TOKEN"]), Required(&["YANDEX_CLOUD_FOLDER_ID"])],
        |given| {
            Ok(DnsUpdater::new_yandexcloud(YandexCloudConfig {
                iam_token_b64: given.get("YANDEX_CLOUD_IAM_TOKEN").to_owned(),
                folder_id: given.get("YANDEX_CLOUD_FOLDER_ID").to_owned(),
                request_timeout: given.timeout(),
            })?)
        },
    ),
    entry(
        &["zoneee"],
        "Zone.ee",
        &["ZONEEE"],
        times(0, 300, 5, 30),
        &[
            Required(&["ZONEEE_API_USER"]),
            Required(&["ZONEEE_API_KEY"]),
            Fixed("ZONEEE_ENDPOINT", &["https://api.zone.eu/v2"]),
        ],
        |given| {
            let (user, key) = (given.get("ZONEEE_API_USER"), given.get("ZONEEE_API_KEY"));
            Ok(DnsUpdater::new_zoneeu(user, key, given.timeout())?)
        },
    ),
];

/// Asks for our address, which Namecheap wants to be told in each request.
fn namecheap(given: &Given) -> BoxFuture<'_, Result<DnsUpdater, Error>> {
    Box::pin(async {
        let url = "https://dynamicdns.park-your-domain.com/getip";
        let http = Http::plain(given.timeout().unwrap_or_default());
        let answer = http.send(Method::GET, url, Message::default()).await?;
        let text = String::from_utf8_lossy(&answer.body);
        let address: std::net::IpAddr = text.trim().parse().map_err(|_| {
            Error::dns(format!("{url}: status {}: expected an address: {}", answer.status, answer.excerpt()))
        })?;
        let (user, key) = (given.get("NAMECHEAP_API_USER"), given.get("NAMECHEAP_API_KEY"));
        Ok(DnsUpdater::new_namecheap(user, key, address.to_string(), None::<&str>, given.timeout())?)
    })
}

fn oracle(given: &Given) -> Result<DnsUpdater, Error> {
    let key = match given.optional("OCI_PRIVKEY") {
        // From a file, it is PEM; from a variable, this is encoded once more.
        Some(pem) if pem.contains("-----BEGIN") => pem.to_owned(),
        Some(encoded) => BASE64_STANDARD
            .decode(encoded.trim())
            .ok()
            .and_then(|pem| String::from_utf8(pem).ok())
            .ok_or_else(|| Error::local("OCI_PRIVKEY: expected the PEM of a key in base64"))?,
        None if given.optional("OCI_PRIVATE_KEY_PATH").is_some() => read("OCI_PRIVATE_KEY_PATH", given)?,
        None => return Err(missing(&[&["OCI_PRIVKEY", "OCI_PRIVATE_KEY", "OCI_PRIVATE_KEY_PATH"]])),
    };
    Ok(DnsUpdater::new_oraclecloud(OracleCloudConfig {
        tenancy_ocid: given.get("OCI_TENANCY_OCID").to_owned(),
        user_ocid: given.get("OCI_USER_OCID").to_owned(),
        fingerprint: given.get("OCI_PUBKEY_FINGERPRINT").to_owned(),
        private_key_pem: key,
        private_key_password: None,
        region: given.get("OCI_REGION").to_owned(),
        compartment_ocid: given.get("OCI_COMPARTMENT_OCID").to_owned(),
        request_timeout: given.timeout(),
    })?)
}

/// Reads the file that a variable names.
fn read(name: &'static str, given: &Given) -> Result<String, Error> {
    let path = given.get(name);
    std::fs::read_to_string(path).map_err(|error| Error::local(format!("{name}: `{path}`: {error}")))
}
