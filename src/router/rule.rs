//! A rule: matchers joined by `&&`, `||` and `!`.

use tidegate_core::Request;
use tidegate_core::expression::{self, Call, SyntaxError};

use super::matcher::{Matcher, Refused};
use super::tree::Tree;
use super::view::View;

/// Most characters of a rule in a message.
const LONGEST_SHOWN: usize = 2000;

/// A checked rule (Traefik's v3 rule language).
#[derive(Clone, Debug)]
pub struct Rule {
    text: Box<str>,
    tree: Tree<Matcher>,
}

impl Rule {
    /// Parses and checks a rule. The error says what was expected and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = shortened(text);
        let failed = |reason: String| format!("error while parsing rule {shown}: {reason}");
        let expression = expression::parse(text)
            .map_err(|e| failed(format!("parsing rule {shown}: {}", located(text, &e))))?;
        let tree = Tree::new(&expression, &Matcher::new).map_err(|refused| {
            failed(match refused {
                Refused::Parsing(reason) => format!("parsing rule {shown}: {reason}"),
                Refused::Adding(reason) => format!("adding rule {shown}: {reason}"),
            })
        })?;
        Ok(Self { text: text.into(), tree })
    }

    /// The rule that is this one call: how other expressions ask what rules ask.
    pub(crate) fn of_call(call: &Call) -> Result<Self, String> {
        let matcher = Matcher::new(call).map_err(|refused| match refused {
            Refused::Parsing(reason) | Refused::Adding(reason) => reason,
        })?;
        Ok(Self { text: call.to_string().into(), tree: Tree::Matcher(matcher) })
    }

    /// The rule as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Values of its `Host` matchers that are not negated, in lower case and in the order of the rule.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        collect_hosts(&self.tree, false, &mut hosts);
        hosts
    }

    /// True when the rule takes the request: the plain evaluation that the index must agree with.
    pub fn matches(&self, request: &Request) -> bool {
        let view = View::new(request);
        self.tree.matches(&|matcher| matcher.matches(&view))
    }

    pub(super) fn tree(&self) -> &Tree<Matcher> {
        &self.tree
    }

    pub(super) fn into_tree(self) -> Tree<Matcher> {
        self.tree
    }
}

/// Collects the values of `Host` matchers that are not negated.
fn collect_hosts(tree: &Tree<Matcher>, negated: bool, hosts: &mut Vec<String>) {
    match tree {
        Tree::All(parts) | Tree::Any(parts) => {
            parts.iter().for_each(|part| collect_hosts(part, negated, hosts));
        }
        Tree::Not(part) => collect_hosts(part, !negated, hosts),
        Tree::Matcher(_) if negated => {}
        Tree::Matcher(Matcher::Host(host)) => hosts.push(host.to_string()),
        Tree::Matcher(Matcher::HostBelow(suffix)) => hosts.push(format!("*.{suffix}")),
        Tree::Matcher(Matcher::AnyHost) => hosts.push("*".to_owned()),
        Tree::Matcher(_) => {}
    }
}

/// A rule as messages show it: whole, unless nobody would read it all.
fn shortened(text: &str) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()).into(),
        None => text.into(),
    }
}

/// A syntax error with line and column, as Go writes them. Where Go has the same error, so does this.
pub(crate) fn located(text: &str, error: &SyntaxError) -> String {
    let at_end = error.message.ends_with("found the end") || error.message == "empty expression";
    let never_closed = error.message.starts_with("the call of") && error.message.ends_with("is never closed");
    let end = text.trim_end().len();
    let (at, message) = match () {
        () if never_closed && !text.trim_end().ends_with(['(', ',']) => {
            (end, "missing ',' before newline in argument list")
        }
        () if at_end && error.message.contains("expected a call") || error.message == "empty expression" => {
            (end, "expected operand, found 'EOF'")
        }
        () => (error.span.start, error.message.as_str()),
    };
    let before = text.get(..at).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.rfind('\n').map_or(before.len(), |newline| before.len() - newline - 1) + 1;
    format!("{line}:{column}: {message}")
}

#[cfg(test)]
mod tests {
    use super::super::testing::request;
    use super::*;

    #[test]
    fn matchers_take_what_traefik_takes() {
        for (rule, method, host, target, taken) in [
            ("Host(`UP.test`)", "GET", "up.TEST.:99", "/", true),
            ("Host(`dot.test.`)", "GET", "dot.test", "/", true),
            ("Host(`*.w.test`)", "GET", "a.w.test", "/", true),
            ("Host(`*.w.test`)", "GET", "a.b.w.test", "/", false),
            ("Host(`*.w.test`)", "GET", "w.test", "/", false),
            ("Host(`*`)", "GET", "any", "/", true),
            ("Host(`[::1]`)", "GET", "[::1]:80", "/", true),
            ("HostRegexp(`^RE.test$`)", "GET", "RE.test", "/", false),
            ("HostRegexp(`^re\\.test$`)", "GET", "RE.test:80", "/", true),
            ("HostRegexp(`^re\\.test$`)", "GET", "re.test.", "/", false),
            ("Path(`/x\"y`)", "GET", "h", "/x%22y", true),
            ("PathPrefix(\"/esc\\\\d\")", "GET", "h", "/esc%5Cd", true),
            ("Path(`/enc%2Fslash`)", "GET", "h", "/enc%2fslash", true),
            ("Path(`/a/b`)", "GET", "h", "/a%2Fb", false),
            ("Path(`/u/é`)", "GET", "h", "/u/%C3%A9", true),
            ("PathPrefix(`/api`)", "GET", "h", "/apix", true),
            ("PathRegexp(`/[^/]+/end$`)", "GET", "h", "/re/a%2Fb/end", true),
            ("Method(`put`)", "PUT", "h", "/", true),
            ("Query(`a`)", "GET", "h", "/?b&a", true),
            ("Query(`a`)", "GET", "h", "/?a=1", false),
            ("Query(`a b`, `c d`)", "GET", "h", "/?a+b=c%20d", true),
            ("Query(`a`, `1`)", "GET", "h", "/?a=1;b=2", true),
            ("Query(`a`, `1`)", "GET", "h", "/?x=%zz&a=1", true),
            ("QueryRegexp(`a`, `^1+$`)", "GET", "h", "/?a=0&a=11", true),
            ("Header(`x-a`, `1`)", "GET", "h", "/", true),
            ("HeaderRegexp(`X-A`, `^2$`)", "GET", "h", "/", true),
            ("Header(`x-a`, `1,2`)", "GET", "h", "/", false),
            ("Header(`Host`, `h`)", "GET", "h", "/", false),
            ("ClientIP(`127.0.0.1`)", "GET", "h", "/", true),
            ("ClientIP(`::ffff:127.0.0.0/120`)", "GET", "h", "/", true),
            ("ClientIP(`10.0.0.0/8`)", "GET", "h", "/", false),
            ("HOST(`h`) && Pathprefix(`/`) && !method(`PUT`)", "GET", "h", "/", true),
        ] {
            let parsed = Rule::parse(rule).unwrap();
            let request = request(method, host, target, &[("x-a", "1"), ("x-a", "2")]);
            assert_eq!(parsed.matches(&request), taken, "{rule} on {method} {host} {target}");
        }
    }

    #[test]
    fn errors_are_those_of_traefik() {
        for (rule, stage, reason) in [
            ("Nope(`/x`)", "parsing", "unsupported function: Nope"),
            ("Path(`/y`", "parsing", "1:10: missing ',' before newline in argument list"),
            ("Host(`a`) &&", "parsing", "1:13: expected operand, found 'EOF'"),
            ("", "parsing", "1:1: expected operand, found 'EOF'"),
            ("Host(`a`) > 1", "parsing", "> is not supported"),
            ("Host()", "adding", "error while checking rule Host: no args for matcher Host"),
            (
                "Header(`a`,``)",
                "adding",
                "error while checking rule Header: empty args for matcher Header, [a ]",
            ),
            (
                "Path(`noslash`)",
                "adding",
                "error while adding rule Path: path \"noslash\" does not start with a '/'",
            ),
            (
                "Header(`a`)",
                "adding",
                "error while adding rule Header: unexpected number of parameters; got 1, expected one of [2]",
            ),
            (
                "HostRegexp(`(`)",
                "adding",
                "error while adding rule HostRegexp: compiling HostRegexp matcher: \
                 error parsing regexp: missing closing ): `(`",
            ),
        ] {
            let expected = format!("error while parsing rule {rule}: {stage} rule {rule}: {reason}");
            assert_eq!(Rule::parse(rule).unwrap_err(), expected);
        }
    }

    #[test]
    fn v2_syntax_is_refused_with_the_v3_form() {
        for (rule, shown) in [
            ("Host(`a`,`b`)", "in v3 it is Host(`a`) || Host(`b`)"),
            ("Headers(`a`,`b`)", "in v3 it is Header(`name`, `value`)"),
            ("HostRegexp(`{sub:[a-z]+}.test`)", "like HostRegexp(`"),
            ("PathPrefix(`/{id:[0-9]+}`)", "like PathRegexp(`"),
            ("PathPrefx(`/`)", "did you mean PathPrefix?"),
        ] {
            let error = Rule::parse(rule).unwrap_err();
            assert!(error.contains(shown), "{error}");
        }
    }

    #[test]
    fn hosts_are_those_asked_for() {
        let rule =
            Rule::parse("Host(`B.test`) || !(Host(`no`)) || !!Host(`*.A.test`) && HostRegexp(`x`)").unwrap();
        assert_eq!(rule.hosts(), ["b.test", "*.a.test"]);
        assert_eq!(rule.text(), "Host(`B.test`) || !(Host(`no`)) || !!Host(`*.A.test`) && HostRegexp(`x`)");
    }
}
