//! What is known of well-known providers. Options that are set come first.

use super::options::{Preset, Provider};

/// Defaults of a provider.
struct Defaults {
    title: &'static str,
    /// Empty for providers with an address of their own.
    issuer: &'static str,
    authorization_endpoint: &'static str,
    token_endpoint: &'static str,
    user_info_endpoint: &'static str,
    scopes: &'static [&'static str],
    username_claim: &'static str,
    groups_claim: &'static str,
    user_info: bool,
}

const OPENID: Defaults = Defaults {
    title: "",
    issuer: "",
    authorization_endpoint: "",
    token_endpoint: "",
    user_info_endpoint: "",
    scopes: &["openid"],
    username_claim: "",
    groups_claim: "groups",
    user_info: false,
};

const SELF_HOSTED: Defaults = Defaults {
    scopes: &["openid", "profile", "email", "groups"],
    username_claim: "preferred_username",
    user_info: true,
    ..OPENID
};

fn defaults(preset: Option<Preset>) -> Defaults {
    match preset {
        None => OPENID,
        // Keycloak refuses unknown scopes, and has none for groups: a mapper adds the claim.
        Some(Preset::Keycloak) => Defaults {
            title: "Keycloak",
            scopes: &["openid", "profile", "email"],
            user_info: false,
            ..SELF_HOSTED
        },
        // The scope `profile` includes the groups.
        Some(Preset::Authentik) => Defaults {
            title: "authentik",
            scopes: &["openid", "profile", "email"],
            user_info: false,
            ..SELF_HOSTED
        },
        // Since 4.39, its ID tokens have no claims of the user.
        Some(Preset::Authelia) => Defaults { title: "Authelia", ..SELF_HOSTED },
        Some(Preset::PocketId) => Defaults { title: "Pocket ID", ..SELF_HOSTED },
        Some(Preset::Google) => Defaults {
            title: "Google",
            issuer: "https://accounts.google.com",
            scopes: &["openid", "profile", "email"],
            username_claim: "email",
            ..OPENID
        },
        Some(Preset::GitHub) => Defaults {
            title: "GitHub",
            authorization_endpoint: "https://github.com/login/oauth/authorize",
            token_endpoint: "https://github.com/login/oauth/access_token",
            user_info_endpoint: "https://api.github.com/user",
            scopes: &["read:user"],
            username_claim: "login",
            user_info: true,
            ..OPENID
        },
        Some(Preset::Entra) => Defaults {
            title: "Microsoft",
            scopes: &["openid", "profile", "email", "offline_access"],
            username_claim: "preferred_username",
            ..OPENID
        },
    }
}

/// Fills in what the options leave open.
pub(super) fn complete(mut provider: Provider) -> Provider {
    let known = defaults(provider.preset.known());
    let fill = |option: &mut String, usual: &str| {
        if option.is_empty() {
            usual.clone_into(option);
        }
    };
    // Endpoints describe a provider without discovery.
    if provider.issuer.is_empty() {
        fill(&mut provider.authorization_endpoint, known.authorization_endpoint);
        fill(&mut provider.token_endpoint, known.token_endpoint);
        fill(&mut provider.user_info_endpoint, known.user_info_endpoint);
    }
    fill(&mut provider.issuer, known.issuer);
    fill(&mut provider.username_claim, known.username_claim);
    fill(&mut provider.groups_claim, known.groups_claim);
    let name = provider.name.clone();
    fill(&mut provider.title, if known.title.is_empty() { &name } else { known.title });
    if provider.scopes.is_empty() {
        provider.scopes = known.scopes.iter().map(|scope| (*scope).to_owned()).collect();
    }
    provider.user_info.get_or_insert(known.user_info);
    provider
}

#[cfg(test)]
mod tests {
    use tidegate_core::word::Word;

    use super::*;

    #[test]
    fn options_come_before_presets() {
        let of = |preset: &str| complete(Provider { preset: Word::from(preset), ..Provider::default() });
        assert_eq!(of("google").issuer, "https://accounts.google.com");
        assert_eq!(of("GitHub").authorization_endpoint, "https://github.com/login/oauth/authorize");
        assert_eq!(of("").scopes, ["openid"]);
        let own = Provider {
            preset: Preset::Authelia.into(),
            scopes: vec!["openid".into()],
            username_claim: "sub".into(),
            user_info: Some(false),
            ..Provider::default()
        };
        let completed = complete(own.clone());
        assert_eq!((&completed.scopes, &completed.username_claim), (&own.scopes, &own.username_claim));
        assert_eq!(completed.user_info, Some(false));
    }
}
