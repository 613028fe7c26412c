use std::fs;

use tempfile::TempDir;

use super::*;

fn command(script: &str) -> Source {
    Source::Command(["sh", "-c", script].map(str::to_owned).to_vec())
}

fn file(directory: &TempDir, content: &[u8]) -> PathBuf {
    let path = directory.path().join("value");
    fs::write(&path, content).unwrap();
    path
}

async fn read_one(source: &Source) -> Result<Secret, SourceFault> {
    read(source, &Arc::new(Semaphore::new(1))).await
}

async fn read_text(source: Source) -> Result<String, SourceFault> {
    read_one(&source).await.map(|value| value.expose_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_file_loses_one_trailing_newline() {
    let directory = TempDir::new().unwrap();
    for (content, expected) in [("pw", "pw"), ("pw\n", "pw"), ("pw\r\n", "pw"), ("pw\n\n", "pw\n"), (" p w ", " p w ")] {
        let path = file(&directory, content.as_bytes());
        assert_eq!(read_text(Source::File(path)).await.as_deref(), Ok(expected), "{content:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_file_or_a_command_is_said() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("absent");
    assert_eq!(read_text(Source::File(missing.clone())).await, Err(SourceFault::Missing(missing)));
    let folder = directory.path().to_owned();
    assert_eq!(read_text(Source::File(folder.clone())).await, Err(SourceFault::NotAFile(folder)));
    let (nothing, unknown) = (command("true"), Source::Command(vec!["/no/such/program".to_owned()]));
    let nothing = read_text(nothing).await.unwrap_err();
    assert!(nothing == SourceFault::Empty && nothing.advice().starts_with("correct the command"), "{nothing}");
    let unknown = read_text(unknown).await.unwrap_err().to_string();
    assert_eq!(unknown, "the command /no/such/program can't be run (there is no such program)");
    let empty = file(&directory, b"\n");
    assert_eq!(read_text(Source::File(empty.clone())).await, Err(SourceFault::EmptyFile(empty)));
    let longest = vec![b'x'; VALUE_MAX];
    assert_eq!(read_one(&Source::File(file(&directory, &longest))).await.unwrap().expose().len(), VALUE_MAX);
    let too_long = vec![b'x'; VALUE_MAX + 1];
    assert_eq!(read_text(Source::File(file(&directory, &too_long))).await, Err(SourceFault::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn readings_that_hang_hold_no_further_threads() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, b"pw");
    let source = Source::File(path.clone());
    let readers = Arc::new(Semaphore::new(1));
    let hanging = readers.clone().try_acquire_owned().unwrap();
    assert_eq!(read(&source, &readers).await.err(), Some(SourceFault::NoAnswer(path)));
    drop(hanging);
    // A reading takes real time, during which the paused clock would run on.
    tokio::time::resume();
    assert!(read(&source, &readers).await.is_ok());
}

#[tokio::test]
async fn a_pipe_is_refused_instead_of_waited_for() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    assert_eq!(read_text(Source::File(path.clone())).await, Err(SourceFault::NotAFile(path)));
}

#[tokio::test]
async fn a_command_gives_its_output() {
    assert_eq!(read_text(command("echo s3cret; echo noise >&2")).await.as_deref(), Ok("s3cret"));
    assert_eq!(read_text(command("printf 'a b\\n\\n'")).await.as_deref(), Ok("a b\n"));
    assert_eq!(read_text(command("true")).await, Err(SourceFault::Empty));
    assert_eq!(read_text(command("head -c 65537 /dev/zero")).await, Err(SourceFault::TooLarge));
}

#[tokio::test]
async fn a_failing_command_is_told_by_its_status_and_its_standard_error_is_for_those_who_ask() {
    let source = command("echo s3cret; printf 'not \\033[31msigned\\nin' >&2; exit 3");
    let fault = read_one(&source).await.unwrap_err();
    assert_eq!(fault, SourceFault::CommandFailed { program: "sh".into(), status: Some(3), stderr: None });
    assert_eq!(fault.to_string(), "the command sh failed (exit status 3)");
    let readers = Arc::new(Semaphore::new(1));
    let shown = read_keeping_stderr(&source, &readers).await.unwrap_err();
    assert_eq!(shown.stderr(), Some("not [31msigned in"));
    assert_eq!(shown.to_string(), fault.to_string());
    assert!(!format!("{shown:?}").contains("s3cret"));
    let long = read_keeping_stderr(&command("yes wrong | head -c 100000 >&2; exit 1"), &readers).await.unwrap_err();
    assert!((STDERR_MAX - 100..=STDERR_MAX).contains(&long.stderr().unwrap().len()));
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named() {
    let source = Source::Command(vec!["/nonexistent/tool".into()]);
    let expected = SourceFault::CommandNotRun { program: "/nonexistent/tool".into(), kind: io::ErrorKind::NotFound };
    assert_eq!(read_text(source).await, Err(expected));
}

/// The end of the pipe tells that the command and its child are gone: both hold the other end open.
#[tokio::test]
async fn a_command_nobody_waits_for_is_killed_with_its_children() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let script = format!("exec 3>'{}'; sleep 1000 & echo up >&3; wait", path.display());
    let source = command(&script);
    let mut reading = Box::pin(read_one(&source));
    let mut pipe = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&path).unwrap();
    let mut word = [0; 3];
    tokio::select! {
        _ = &mut reading => panic!("the command ended"),
        read = pipe.read_exact(&mut word) => { read.unwrap(); }
    }
    drop(reading);
    let end = timeout(Duration::from_secs(10), pipe.read(&mut word)).await;
    assert_eq!(end.expect("both are killed").unwrap(), 0);
}

/// Says `none` unless the test below runs it again with a secret in its environment.
#[tokio::test]
async fn a_command_sees_none_of_our_variables() {
    let output = read_text(command("echo ${CAREPORTALS_PASSWORD-none} ${CAREPORTALS__ACCOUNTS__CRM__PASSWORD-none}")).await;
    assert_eq!(output.as_deref(), Ok("none none"));
}

#[tokio::test]
async fn secrets_in_our_environment_are_withheld_from_commands() {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "sources::read::tests::a_command_sees_none_of_our_variables"]);
    again.env("CAREPORTALS_PASSWORD", "s3cret").env("CAREPORTALS__ACCOUNTS__CRM__PASSWORD", "s3cret");
    let output = again.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "it was found and run");
}
