//! Holds a team's own routes, and finds the one for a request.
//!
//! The files, each using only those before it: `template`, `own_route`, `parse`. The table keeps the routes of the start apart from
//! those that were added later, so that a test can take its own away.

mod own_route;
mod parse;
mod template;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

pub(crate) use own_route::{CallFault, FAULT_FORMS, MadeAnswer, OwnRoute, PathPattern, RouteAnswer, RouteBody};
use parse::WrittenRoute;
pub(crate) use template::RequestValues;

/// The routes that a team has set.
#[derive(Default)]
pub(crate) struct RouteTable {
    at_start: Vec<Arc<OwnRoute>>,
    added: Vec<Arc<OwnRoute>>,
}

/// A route that matches a request, and the parameters of its path.
pub(crate) struct FoundRoute {
    pub(crate) route: Arc<OwnRoute>,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// What the simulator answers by itself at a method and a path pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuiltIn {
    /// Something that own routes may replace.
    Call,
    /// A log-in, a refresh or an awkward endpoint: own routes may not.
    Fixed,
    Nothing,
}

/// Whether a route is written well, without regard to other routes.
///
/// # Errors
///
/// The member that is wrong, and what to write.
pub(crate) fn check(route: &Value) -> Result<(), String> {
    parse::parse(&Value::Array(vec![route.clone()])).map(|_| ()).map_err(|fault| match fault.split_once("), ") {
        Some((_, fault)) => fault.to_owned(),
        None => fault,
    })
}

impl RouteTable {
    /// Adds the routes of a document, all or none; one with the method and path of an added one takes its place.
    ///
    /// # Errors
    ///
    /// One line for each route that is wrong.
    pub(crate) fn add(&mut self, document: &Value, built_in: impl Fn(&str, &str) -> BuiltIn) -> Result<(), String> {
        let mut routes = Vec::new();
        let mut faults = Vec::new();
        for written in parse::parse(document)? {
            match self.resolve(&written, built_in(&written.method, &written.path.to_string())) {
                Ok(route) => routes.push(Arc::new(route)),
                Err(fault) => faults.push(format!("{}: {fault}", written.label)),
            }
        }
        if !faults.is_empty() {
            return Err(faults.join("\n"));
        }
        for route in routes {
            self.added.retain(|known| !is_same(known, &route.method, &route.path));
            self.added.push(route);
        }
        Ok(())
    }

    /// Gives a route its answer, its own or that of the route that it changes.
    fn resolve(&self, written: &WrittenRoute, built_in: BuiltIn) -> Result<OwnRoute, String> {
        let below = || self.all().find(|known| is_same(known, &written.method, &written.path));
        let answer = match (&written.answer, built_in) {
            (_, BuiltIn::Fixed) => {
                return Err("the simulator answers this by itself; its settings and log-in faults change log-ins".to_owned());
            }
            (Some(made), _) => RouteAnswer::Made(made.clone()),
            (None, built_in) => match below() {
                Some(route) => route.answer.clone(),
                None if built_in == BuiltIn::Call => RouteAnswer::BuiltIn,
                None => return Err("there is no such route to change; give it a \"status\", a \"body\" or a \"text\"".to_owned()),
            },
        };
        let (method, path) = (written.method.clone(), written.path.clone());
        Ok(OwnRoute { method, path, answer, latency: written.latency, fault: written.fresh_fault() })
    }

    /// Takes away what was added since the start.
    pub(crate) fn remove_added(&mut self) {
        self.added.clear();
    }

    /// Makes the routes added so far those of the start.
    pub(crate) fn keep_added(&mut self) {
        for route in std::mem::take(&mut self.added) {
            self.at_start.retain(|known| !is_same(known, &route.method, &route.path));
            self.at_start.push(route);
        }
    }

    /// The route for a request. A text in the path comes before a parameter, and an added route before one of the start.
    pub(crate) fn find(&self, method: &str, path: &str) -> Option<FoundRoute> {
        let mut best: Option<FoundRoute> = None;
        for route in self.all().filter(|route| route.method == method) {
            if best.as_ref().is_some_and(|best| !route.path.is_before(&best.route.path)) {
                continue;
            }
            if let Some(parameters) = route.path.matches(path) {
                best = Some(FoundRoute { route: Arc::clone(route), parameters });
            }
        }
        best
    }

    /// The names of all routes, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.all().map(|route| route.name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Every route, the added ones first.
    fn all(&self) -> impl Iterator<Item = &Arc<OwnRoute>> {
        self.added.iter().chain(&self.at_start)
    }
}

fn is_same(known: &OwnRoute, method: &str, path: &PathPattern) -> bool {
    known.method == method && known.path.is_same(path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn built_in(_: &str, path: &str) -> BuiltIn {
        match path {
            "/users/account" => BuiltIn::Call,
            "/auth" => BuiltIn::Fixed,
            _ => BuiltIn::Nothing,
        }
    }

    fn found(table: &RouteTable, path: &str) -> Option<String> {
        table.find("GET", path).map(|found| found.route.name())
    }

    #[test]
    fn texts_come_before_parameters_and_added_routes_before_those_of_the_start() {
        let mut table = RouteTable::default();
        table.add(&json!([{ "path": "/a/{x}", "body": 1 }, { "path": "/a/b", "body": 1 }]), built_in).unwrap();
        table.keep_added();
        assert_eq!(found(&table, "/a/b").as_deref(), Some("GET /a/b"));
        assert_eq!(found(&table, "/a/c").as_deref(), Some("GET /a/{x}"));
        table.add(&json!([{ "path": "/a/{y}", "status": 404 }]), built_in).unwrap();
        assert_eq!(found(&table, "/a/c").as_deref(), Some("GET /a/{y}"));
        assert_eq!(found(&table, "/a/b").as_deref(), Some("GET /a/b"));
        table.remove_added();
        assert_eq!(found(&table, "/a/c").as_deref(), Some("GET /a/{x}"));
        assert_eq!((found(&table, "/a"), table.names().len()), (None, 2));
    }

    #[test]
    fn a_route_without_an_answer_changes_one_that_is_there() {
        let mut table = RouteTable::default();
        table.add(&json!([{ "path": "/n/{id}", "status": 201 }]), built_in).unwrap();
        table.keep_added();
        let change = json!([{ "path": "/n/{note}", "fault": "hang" }, { "path": "/users/account", "latency": "1s" }]);
        table.add(&change, built_in).unwrap();
        let changed = table.find("GET", "/n/1").unwrap().route;
        assert!(matches!(&changed.answer, RouteAnswer::Made(made) if made.status == 201) && changed.fault.is_some());
        assert!(matches!(table.find("GET", "/users/account").unwrap().route.answer, RouteAnswer::BuiltIn));
        let fault = table.add(&json!([{ "path": "/x", "fault": "hang" }, { "path": "/auth", "body": 1 }]), built_in).unwrap_err();
        assert_eq!(fault.lines().count(), 2, "{fault}");
        assert_eq!(table.names().len(), 3, "none of a wrong document is added");
    }
}
