//! One of a team's own routes: its path, its answer, its latency and its fault.
//!
//! Pure, but for the count of faults that are left.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use hyper::{HeaderMap, StatusCode, header::HeaderName};

use super::template::{JsonTemplate, RequestValues, Template};
use crate::{fault::LoginFault, request::decode_path};

/// A route that a team has set.
#[derive(Debug)]
pub(crate) struct OwnRoute {
    /// In upper case; HEAD counts as GET.
    pub(crate) method: String,
    pub(crate) path: PathPattern,
    pub(crate) answer: RouteAnswer,
    /// Takes the place of the latency of the settings.
    pub(crate) latency: Option<Duration>,
    pub(crate) fault: Option<RouteFault>,
}

impl OwnRoute {
    /// The name that it is counted under, such as `GET /customers/{id}`.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What a route answers when no fault takes its place.
#[derive(Clone, Debug)]
pub(crate) enum RouteAnswer {
    /// What the simulator answers by itself.
    BuiltIn,
    Made(MadeAnswer),
}

/// An answer that the team wrote.
#[derive(Clone, Debug)]
pub(crate) struct MadeAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, Template)>,
    pub(crate) body: RouteBody,
    /// Whether a call needs a bearer, or only the organization.
    pub(crate) needs_bearer: bool,
}

/// The body of an answer.
#[derive(Clone, Debug)]
pub(crate) enum RouteBody {
    Empty,
    Json(JsonTemplate),
    Text(Template),
}

impl MadeAnswer {
    /// The headers of one answer; a value that HTTP does not allow is left out.
    pub(crate) fn filled_headers(&self, values: &RequestValues) -> HeaderMap {
        let filled = self.headers.iter().filter_map(|(name, value)| Some((name.clone(), value.text(values).parse().ok()?)));
        filled.collect()
    }
}

/// A fault of a route, and for how many requests it is left.
#[derive(Debug)]
pub(crate) struct RouteFault {
    pub(crate) what: CallFault,
    /// `None`: for all requests.
    left: Option<AtomicU32>,
}

/// What a faulty route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallFault {
    /// A fault that log-ins have, too.
    Shared(LoginFault),
    /// The head and half of the body are sent, then the connection ends.
    Truncated,
}

impl RouteFault {
    /// A fault for the next `times` requests, or for all of them.
    pub(crate) fn new(what: CallFault, times: Option<u32>) -> Self {
        Self { what, left: times.map(AtomicU32::new) }
    }

    /// The fault for one request; takes one of those that are left.
    pub(crate) fn take(&self) -> Option<&CallFault> {
        let take = |left: &AtomicU32| left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok();
        self.left.as_ref().is_none_or(take).then_some(&self.what)
    }
}

/// The forms of a route's fault.
pub(crate) const FAULT_FORMS: &str = "status:CODE, retry-after:CODE:VALUE, garbage, redirect:URL, huge, reset, hang, \
                                      javascript-error, truncated";

/// Parses a route's fault.
///
/// # Errors
///
/// What is expected.
pub(crate) fn parse_fault(written: &str) -> Result<CallFault, String> {
    if written == "truncated" {
        return Ok(CallFault::Truncated);
    }
    match written.parse() {
        Ok(
            fault @ (LoginFault::Status(_)
            | LoginFault::StatusRetryAfter(..)
            | LoginFault::Garbage
            | LoginFault::Redirect(_)
            | LoginFault::Huge
            | LoginFault::Reset
            | LoginFault::Hang
            | LoginFault::JavascriptError),
        ) => Ok(CallFault::Shared(fault)),
        Ok(_) => Err(format!("{written:?} is a fault of log-ins; a route has {FAULT_FORMS}")),
        Err(_) => Err(format!("{written:?} is no fault; expected one of {FAULT_FORMS}")),
    }
}

/// A path whose segments are texts or parameters: `/customers/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPattern(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Text(String),
    Parameter(String),
}

impl PathPattern {
    /// Parses a path.
    ///
    /// # Errors
    ///
    /// What is wrong and what to write instead.
    pub(crate) fn parse(path: &str) -> Result<Self, String> {
        let Some(rest) = path.strip_prefix('/') else {
            return Err(format!("expected a path that begins with \"/\", not {path:?}"));
        };
        if path.contains(['?', '#']) {
            return Err(
                "take the query string or the fragment away: a route answers every query, and {{query.NAME}} reads it".to_owned()
            );
        }
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            let parameter = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
            segments.push(match parameter {
                Some(name) if name.is_empty() || name.contains('.') && !name.contains(['{', '}']) => {
                    return Err(format!("{segment:?}: name the parameter, such as {{id}}"));
                }
                Some(name) if segments.contains(&Segment::Parameter(name.to_owned())) => {
                    return Err(format!("the parameter {{{name}}} stands there twice"));
                }
                Some(name) if !name.contains(['{', '}']) => Segment::Parameter(name.to_owned()),
                _ if segment.contains(['{', '}']) => {
                    return Err(format!("{segment:?}: a parameter is a whole segment, such as /{{id}}/"));
                }
                _ => Segment::Text(segment.to_owned()),
            });
        }
        Ok(Self(segments))
    }

    /// The names of the parameters.
    pub(crate) fn parameters(&self) -> Vec<&str> {
        let segments = self.0.iter();
        segments.filter_map(|segment| if let Segment::Parameter(name) = segment { Some(name.as_str()) } else { None }).collect()
    }

    /// The parameters of a path that matches, percent-decoded.
    pub(crate) fn matches(&self, path: &str) -> Option<BTreeMap<String, String>> {
        let given: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        if given.len() != self.0.len() {
            return None;
        }
        let mut parameters = BTreeMap::new();
        for (segment, given) in self.0.iter().zip(given) {
            match segment {
                Segment::Text(text) if text == given => {}
                Segment::Parameter(name) if !given.is_empty() => {
                    parameters.insert(name.clone(), decode_path(given));
                }
                _ => return None,
            }
        }
        Some(parameters)
    }

    /// Whether the two match the same paths: they differ in names of parameters only.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same = |(one, other): (&Segment, &Segment)| one == other || !(one.is_text() || other.is_text());
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }

    /// Whether it comes before `other` when a path matches both: the first segment in which they differ is a text here.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        let kinds = |pattern: &Self| pattern.0.iter().map(Segment::is_text).collect::<Vec<_>>();
        kinds(self) > kinds(other)
    }
}

impl Segment {
    fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Text(text) => write!(f, "/{text}"),
            Segment::Parameter(name) => write!(f, "/{{{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(path: &str) -> PathPattern {
        PathPattern::parse(path).unwrap()
    }

    #[test]
    fn parameters_take_one_whole_segment_each() {
        let found = pattern("/customers/{id}/notes/{note}").matches("/customers/a%40b/notes/1+2").unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("id".to_owned(), "a@b".to_owned()), ("note".to_owned(), "1+2".to_owned())]
        );
        for other in ["/customers//notes/1", "/customers/a/notes", "/customers/a/notes/1/", "customers/a/notes/1"] {
            assert!(pattern("/customers/{id}/notes/{note}").matches(other).is_none(), "{other}");
        }
        for (wrong, told) in [
            ("customers", "begins with"),
            ("", "begins with"),
            ("/a?b=c", "query string"),
            ("/{}", "name the parameter"),
            ("/{a.b}", "name the parameter"),
            ("/{id}.json", "whole segment"),
            ("/{a}..{b}", "whole segment"),
            ("/{a}/{a}", "twice"),
            ("/{a", "whole segment"),
        ] {
            assert!(PathPattern::parse(wrong).is_err_and(|fault| fault.contains(told)), "{wrong:?}");
        }
    }

    #[test]
    fn a_text_comes_before_a_parameter() {
        assert!(pattern("/a/b").is_before(&pattern("/a/{x}")));
        assert!(pattern("/a/{x}").is_before(&pattern("/{y}/b")));
        assert!(!pattern("/a/{x}").is_before(&pattern("/a/{y}")) && pattern("/a/{x}").is_same(&pattern("/a/{y}")));
        assert!(!pattern("/a/b").is_same(&pattern("/a/{y}")));
    }

    #[test]
    fn a_fault_is_taken_as_often_as_it_says() {
        let fault = RouteFault::new(CallFault::Truncated, Some(2));
        let taken: Vec<bool> = (0..4).map(|_| fault.take().is_some()).collect();
        assert_eq!(taken, [true, true, false, false]);
        let fault = RouteFault::new(CallFault::Truncated, None);
        assert!(fault.take().is_some() && fault.take().is_some());
    }

    #[test]
    fn faults_of_tokens_are_no_faults_of_routes() {
        let forms = FAULT_FORMS.replace("CODE", "503").replace("VALUE", "7").replace("URL", "/x");
        assert!(forms.split(", ").all(|form| parse_fault(form).is_ok()), "{forms}");
        assert!(parse_fault("no-exp").unwrap_err().contains("fault of log-ins"));
        assert!(parse_fault("503").unwrap_err().contains("status:CODE"));
    }
}
