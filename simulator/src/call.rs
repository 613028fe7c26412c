//! Admits calls: each needs one organization and, but for the storefront, one good bearer of that organization.
//!
//! A refused call gets the response that CarePortals would give. It uses the state and the tokens, and reads heads only.

use std::sync::Arc;

use hyper::{HeaderMap, Response, StatusCode, header::AUTHORIZATION};

use crate::{
    connection::ConnectionHandle,
    request::single_header,
    response::{ResponseBody, message},
    state::SimulatorState,
    sync::lock,
    tokens::TokenRejection,
};

/// The limit for bodies of calls, in bytes; longer ones are refused with 413.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// An admitted call, with everything its response may depend on.
pub(crate) struct Call {
    pub(crate) state: Arc<SimulatorState>,
    pub(crate) connection: Arc<ConnectionHandle>,
    pub(crate) organization: String,
    /// The token; empty when the call needs none.
    pub(crate) bearer: String,
}

/// What a call must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The call names an organization that exists.
    Organization,
    /// An organization, and a good bearer of it.
    Bearer,
}

/// Admits a call, or says how it is refused.
///
/// # Errors
///
/// The response to send instead: 400, 401 or 404. It is boxed since it is large.
pub(crate) fn admit(
    state: &Arc<SimulatorState>,
    connection: &Arc<ConnectionHandle>,
    headers: &HeaderMap,
    access: Access,
) -> Result<Call, Box<Response<ResponseBody>>> {
    let refuse = |status, text: &str| Box::new(message(status, text));
    let organization = single_header(headers, "organization").map_err(|_| Box::new(repeated_header(state)))?;
    let bearer = single_header(headers, AUTHORIZATION.as_str()).map_err(|_| Box::new(repeated_header(state)))?;
    let organization = organization
        .filter(|organization| !organization.is_empty())
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "Organization is required"))?;
    let call = |bearer: &str| Call {
        state: Arc::clone(state),
        connection: Arc::clone(connection),
        organization: organization.to_owned(),
        bearer: bearer.to_owned(),
    };
    if access == Access::Organization {
        return if state.knows_organization(organization) {
            Ok(call(""))
        } else {
            Err(refuse(StatusCode::NOT_FOUND, "Organization not found"))
        };
    }
    let unauthorized = |text| refuse(StatusCode::UNAUTHORIZED, text);
    let (scheme, token) = bearer.and_then(|bearer| bearer.split_once(' ')).ok_or_else(|| unauthorized("No auth token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized("No auth token"));
    }
    let now = state.now_seconds();
    lock(&state.tokens).check(token, organization, now).map_err(|rejection| {
        unauthorized(match rejection {
            TokenRejection::Unknown => "invalid token",
            TokenRejection::Expired => "jwt expired",
            TokenRejection::Revoked => "jwt revoked",
            TokenRejection::OtherOrganization => "Unauthorized",
        })
    })?;
    Ok(call(token))
}

/// The response to a header that came twice though it may come once; counts it.
pub(crate) fn repeated_header(state: &SimulatorState) -> Response<ResponseBody> {
    state.recorder.count(|counts| counts.malformed += 1);
    message(StatusCode::BAD_REQUEST, "A header that must be sent once was sent more than once")
}
