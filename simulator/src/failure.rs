//! Carries out the faults that take the place of an answer, for log-ins and for routes.
//!
//! It uses the state and the connection. It knows nothing of credentials and tokens.

use std::{future::pending, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
};

use crate::{
    connection::{Abort, ConnectionHandle},
    fault::LoginFault,
    response::{ResponseBody, full, message, response, set_header},
    state::SimulatorState,
};

/// The message of a 400 that was not meant for clients.
const JAVASCRIPT_ERROR: &str = "TypeError: Cannot read properties of undefined (reading '_id')";

/// Carries out a fault that takes the place of any answer; `None` when `fault` changes the token of a log-in instead.
pub(crate) async fn carry_out(
    state: &Arc<SimulatorState>,
    connection: &ConnectionHandle,
    fault: &LoginFault,
) -> Option<Response<ResponseBody>> {
    match fault {
        LoginFault::Status(status) => Some(message(final_status(*status), "Something went wrong")),
        LoginFault::StatusRetryAfter(status, after) => {
            let mut response = message(final_status(*status), "Too Many Requests");
            set_header(&mut response, RETRY_AFTER, after);
            Some(response)
        }
        LoginFault::Garbage => {
            let mut response = response(StatusCode::OK, full("<html>Bad gateway, probably</html>"));
            set_header(&mut response, CONTENT_TYPE, "text/html");
            Some(response)
        }
        LoginFault::Redirect(location) => {
            let mut response = message(StatusCode::FOUND, "Found");
            set_header(&mut response, LOCATION, location);
            Some(response)
        }
        LoginFault::Huge => Some(endless(state)),
        LoginFault::Reset => {
            connection.abort(Abort::Reset);
            pending().await
        }
        LoginFault::Hang => pending().await,
        LoginFault::JavascriptError => Some(message(StatusCode::BAD_REQUEST, JAVASCRIPT_ERROR)),
        _ => None,
    }
}

/// Answers with a JSON string that never ends.
fn endless(state: &Arc<SimulatorState>) -> Response<ResponseBody> {
    let (mut sender, channel) = Channel::new(1);
    tokio::spawn(async move {
        let mut piece = Bytes::from_static(b"{\"token\": \"");
        // The task ends when the client closes the connection, since that closes the channel.
        while sender.send_data(piece).await.is_ok() {
            piece = Bytes::from_static(&[b'A'; 16 * 1024]);
        }
    });
    state.recorder.notify();
    let mut response = response(StatusCode::OK, channel.boxed_unsync());
    set_header(&mut response, CONTENT_TYPE, "application/json");
    response
}

/// The status of a fault; 500 if it is not a final one.
fn final_status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).ok().filter(|status| !status.is_informational()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
