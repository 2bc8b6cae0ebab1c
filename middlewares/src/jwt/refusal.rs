//! Why a request is refused, and the response that says so (RFC 6750).

use tidegate_core::Response;

use crate::auth::bearer::{self, Code};

/// All refusals in one table: the error code of RFC 6750, and its description, which is sent to the client. It contains
/// nothing of the token.
macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $refusal:ident = $code:ident, $description:literal;)+) => {
        /// Why a request is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Refusal {
            $($(#[doc = $doc])+ $refusal,)+
        }

        impl Refusal {
            pub(super) fn code(self) -> Code {
                match self {
                    $(Self::$refusal => Code::$code,)+
                }
            }

            /// Returns the description for the client and for predictions.
            pub(crate) fn description(self) -> &'static str {
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
    /// The request has more than one token, or more than one `Authorization` field.
    SeveralTokens = InvalidRequest, "the request has more than one token";
    /// Its consumer has a mistake, or its claims are those of several.
    Consumer = ConsumerBroken, "the consumer of the token has a mistake in the configuration, or there are several";
    /// The token is longer than the limit.
    TooLong = InvalidToken, "the token is too long";
    /// The token is not a signed JWT.
    Malformed = InvalidToken, "the token is malformed";
    /// The token is a JWE.
    Encrypted = InvalidToken, "the token is encrypted, which is not supported";
    /// The algorithm is unknown, or not one of the key's.
    Algorithm = InvalidToken, "the algorithm of the token is not allowed";
    /// The header has the parameter `crit`, none of whose extensions is known.
    Critical = InvalidToken, "the token has critical extensions, which are not supported";
    /// The token is of another type, such as a logout token.
    Type = InvalidToken, "the type of the token is not accepted";
    /// No trusted key has the token's `kid`.
    UnknownKey = InvalidToken, "the key of the token is unknown";
    /// The signature is invalid.
    Signature = InvalidToken, "the signature of the token is invalid";
    /// `exp` is over.
    Expired = InvalidToken, "the token is expired";
    /// `exp` is missing.
    NoExpiry = InvalidToken, "the token has no expiry";
    /// `nbf` or `iat` is in the future.
    NotYetValid = InvalidToken, "the token is not valid yet";
    /// `iss` is missing or not trusted.
    Issuer = InvalidToken, "the issuer of the token is not trusted";
    /// `aud` has none of the accepted audiences.
    Audience = InvalidToken, "the token is for another audience";
    /// `cnf` names no certificate, and `requireCertificateBinding` is set.
    NotBound = InvalidToken, "the token is not bound to a certificate";
    /// `cnf` names something other than a certificate, or a key without the option `dpop`.
    OtherBinding = InvalidToken, "the token is bound to something other than a certificate";
    /// `cnf` names another certificate than that of the connection.
    OtherCertificate = InvalidToken, "the token is bound to another certificate";
    /// `usernameClaim` is missing.
    NoName = InvalidToken, "the token does not name its subject";
    /// A claim of `forwardHeaders` cannot be sent in a header.
    Unsendable = InvalidToken, "a claim of the token cannot be sent in a header";
    /// `claims` is false.
    Claims = InsufficientScope, "the claims of the token do not permit this";
    /// The keys could not be fetched.
    Unavailable = Unavailable, "the keys of the issuer are unavailable";
}

impl Refusal {
    /// Returns the response to the client.
    pub(crate) fn response(self) -> Response {
        bearer::refusal(self.code(), self.description())
    }
}
