//! Why a request is refused, in terms of RFC 6750.

use crate::auth::bearer::Code;

/// All refusals in one table: the error code of RFC 6750, and its description, which is sent to the client.
macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $refusal:ident = $code:ident, $description:literal;)+) => {
        /// Why a request is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Refusal {
            $($(#[doc = $doc])+ $refusal,)+
        }

        impl Refusal {
            pub(super) fn code(self) -> Code {
                match self {
                    $(Self::$refusal => Code::$code,)+
                }
            }

            /// Returns the description for the client and for predictions.
            pub(super) fn description(self) -> &'static str {
                match self {
                    $(Self::$refusal => $description,)+
                }
            }
        }
    };
}

refusals! {
    /// The request has no token.
    Missing = Missing, "a token is required";
    /// The request has more than one token, or one that is too long.
    Unusable = InvalidRequest, "the request has more than one token, or one that is too long";
    /// Its consumer has a mistake, or its claims are those of several.
    Consumer = ConsumerBroken, "the consumer of the token has a mistake in the configuration, or there are several";
    /// The token has characters that no token has.
    Malformed = InvalidToken, "the token is malformed";
    /// `active` is false.
    Inactive = InvalidToken, "the token is not active";
    /// `exp` is over.
    Expired = InvalidToken, "the token is expired";
    /// `nbf` or `iat` is in the future.
    NotYetValid = InvalidToken, "the token is not valid yet";
    /// `iss` is another issuer.
    Issuer = InvalidToken, "the issuer of the token is not trusted";
    /// `aud` has none of the accepted audiences.
    Audience = InvalidToken, "the token is for another audience";
    /// `token_type` belongs to a token that is not a bearer token.
    Type = InvalidToken, "the token is bound to a key, which is not supported";
    /// `usernameClaim` is missing.
    NoName = InvalidToken, "the token does not name its subject";
    /// A claim of `forwardHeaders` cannot be sent in a header.
    Unsendable = InvalidToken, "a claim of the token cannot be sent in a header";
    /// `scopes` are not all granted.
    Scope = InsufficientScope, "the token lacks a required scope";
    /// `claims` is false.
    Claims = InsufficientScope, "the claims of the token do not permit this";
    /// The server did not answer, or something else than what is expected.
    Unavailable = Unavailable, "the introspection server is unavailable";
}
