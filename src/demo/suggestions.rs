//! What to try while the demo stays up.

use std::{
    io::{self, Write},
    path::Path,
};

use super::{
    narration::Narration,
    setup::Setup,
    steps::{ACCOUNT, base_url},
};

/// Prints the commands.
///
/// # Errors
///
/// The output can't be written.
pub(super) fn print<W: Write>(setup: &Setup, narration: &mut Narration<W>) -> io::Result<()> {
    let base = base_url(setup);
    narration.heading("Now you, from another terminal; each call gets a line here")?;
    list(
        narration,
        &[
            (format!("curl {base}{ACCOUNT}"), "no token, no organization, and yet an answer"),
            (format!("curl -i {base}/v2/products"), "every header of it"),
            (format!("curl -N {base}/_sim/sse"), "a stream, event by event"),
            (format!("curl -X POST {base}{}", setup.login_path), "refused"),
        ],
    )?;
    narration.heading("The token, and how it is")?;
    match &setup.control {
        Some(directory) => {
            let (program, socket) = (program(), directory.socket());
            list(
                narration,
                &[
                    (format!("export CAREPORTALS_CONTROL_SOCKET={}", socket.display()), "where this one is controlled"),
                    (format!("{program} status"), "its accounts and APIs"),
                    (format!("{program} logout"), "the token is gone, calls are answered 503"),
                    (format!("{program} login"), "and there is one again"),
                ],
            )?;
        }
        None => list(
            narration,
            &[(format!("kill -USR1 {}", std::process::id()), "the token is gone, calls are answered 503 until a restart")],
        )?,
    }
    if let Some(address) = setup.telemetry {
        narration.heading("Or watch it in a browser")?;
        narration.line(&format!("   http://{address}/"))?;
    }
    Ok(())
}

fn list<W: Write>(narration: &mut Narration<W>, commands: &[(String, &str)]) -> io::Result<()> {
    let width = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or_default();
    commands.iter().try_for_each(|(command, does)| narration.command(command, width, does))
}

/// This program, as a shell in another directory finds it.
fn program() -> String {
    let name = std::env::args().next().unwrap_or_default();
    let is_path = Path::new(&name).components().count() > 1;
    let path = is_path.then(std::env::current_exe).and_then(Result::ok);
    path.map_or(name, |path| path.display().to_string())
}
