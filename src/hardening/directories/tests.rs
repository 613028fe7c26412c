use std::fs;
#[cfg(target_os = "linux")]
use std::{
    io::{ErrorKind, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    process::Command,
};

use tempfile::TempDir;

use super::*;
use crate::{
    config::{Account, fixture},
    secret::Secret,
};

/// A configuration whose organization comes from this source, and that has no other source.
fn config(organization: Source) -> Config {
    let account = Account { name: "default".to_owned(), organization, login: None };
    Config { accounts: vec![account], ..fixture::config() }
}

fn reading(path: &Path) -> Config {
    config(Source::File(path.to_owned()))
}

fn real_path(directory: &TempDir) -> PathBuf {
    directory.path().canonicalize().unwrap()
}

#[test]
fn the_directory_of_a_file_and_of_its_symlinks_target_are_allowed() {
    let (named, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(target.path().join("organization"), "acme").unwrap();
    let link = named.path().join("organization");
    std::os::unix::fs::symlink(target.path().join("organization"), &link).unwrap();
    let directories = AllowedDirectories::of(&reading(&link), []).unwrap();
    assert!(directories.read.contains(&real_path(&named)) && directories.read.contains(&real_path(&target)));
    assert!(directories.read.contains(Path::new("/proc")), "groups of callers come from there");
    assert!(directories.bind.is_empty());
}

#[test]
fn when_a_files_directory_does_not_exist_yet_the_closest_one_above_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let directories = AllowedDirectories::of(&reading(&directory.path().join("a/b/organization")), []).unwrap();
    assert!(directories.read.contains(&real_path(&directory)));
}

#[test]
fn landlock_does_not_apply_when_a_source_runs_a_command() {
    let command = config(Source::Command(vec!["op".to_owned()]));
    assert!(AllowedDirectories::of(&command, []).is_err());
    let sandbox = Sandbox(AllowedDirectories::of(&config(Source::Value(Secret::from("acme"))), []).unwrap());
    assert_eq!(sandbox.outside(&command, []), [OutsideSandbox::Command]);
}

#[test]
fn later_settings_may_name_files_in_allowed_directories_and_no_others() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sandbox = Sandbox(AllowedDirectories::of(&reading(&inside.path().join("organization")), []).unwrap());
    for path in ["other", "below/it", "./organization"] {
        assert_eq!(sandbox.outside(&reading(&inside.path().join(path)), []), [], "{path}");
    }
    let foreign = outside.path().join("organization");
    assert_eq!(sandbox.outside(&reading(&foreign), []), [OutsideSandbox::File(foreign.clone())]);
    let link = inside.path().join("link");
    fs::write(&foreign, "acme").unwrap();
    std::os::unix::fs::symlink(&foreign, &link).unwrap();
    let both = [OutsideSandbox::File(link.clone()), OutsideSandbox::File(foreign.clone())];
    assert_eq!(sandbox.outside(&reading(&link), [foreign.as_path()]).iter().filter(|found| both.contains(found)).count(), 2);
    assert_eq!(sandbox.outside(&fixture::config(), [foreign.as_path()]), [OutsideSandbox::File(foreign)]);
}

/// Restricts one thread of the test's process; its other threads keep their rights.
#[cfg(target_os = "linux")]
#[test]
fn the_kernel_refuses_to_read_outside_and_to_write_rename_or_run() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&inside, &outside] {
        fs::write(directory.path().join("organization"), "acme").unwrap();
    }
    std::os::unix::fs::symlink(outside.path().join("organization"), inside.path().join("link")).unwrap();
    let mut directories = AllowedDirectories::of(&reading(&inside.path().join("organization")), []).unwrap();
    let sockets = tempfile::tempdir().unwrap();
    directories.add_socket(&sockets.path().join("a.sock"));
    let (inside, outside) = (inside.path().to_owned(), outside.path().to_owned());
    let denied = |outcome: std::io::Result<()>| {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied);
    };
    std::thread::scope(|scope| {
        let restricted = scope.spawn(|| {
            let Ok((_sandbox, abi)) = super::super::landlock::restrict(directories) else {
                eprintln!("not tried: this kernel has no Landlock");
                return;
            };
            assert!(abi >= 1);
            // What the daemon needs still works.
            assert_eq!(fs::read(inside.join("organization")).unwrap(), b"acme");
            assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);
            fs::read("/proc/self/status").unwrap();
            let listener = UnixListener::bind(sockets.path().join("a.sock")).unwrap();
            fs::remove_file(sockets.path().join("a.sock")).unwrap();
            drop(listener);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap().write_all(b"x").unwrap();
            // Everything else fails, for root too.
            denied(fs::read(outside.join("organization")).map(drop));
            denied(fs::read(inside.join("link")).map(drop));
            denied(fs::read_dir("/").map(drop));
            denied(fs::write(inside.join("organization"), "other"));
            denied(fs::write(inside.join("new"), "file"));
            denied(fs::write(sockets.path().join("new"), "file"));
            denied(fs::create_dir(inside.join("new")));
            denied(fs::remove_file(inside.join("organization")));
            denied(fs::rename(inside.join("organization"), inside.join("moved")));
            denied(std::os::unix::fs::symlink("a", inside.join("b")));
            denied(UnixListener::bind(inside.join("a.sock")).map(drop));
            denied(Command::new("/usr/bin/true").status().map(drop));
        });
        restricted.join().unwrap();
    });
    // This thread is not restricted.
    fs::write(outside.join("organization"), "other").unwrap();
}

#[test]
fn what_links_among_the_roots_lead_to_is_allowed() {
    let (certs, elsewhere, apart) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, target) in [
        ("deadbeef.0", elsewhere.path().join("root.pem")),
        ("root.pem", "deadbeef.0".into()),
        ("up.pem", Path::new("..").join(apart.path().file_name().unwrap()).join("root.pem")),
    ] {
        std::os::unix::fs::symlink(target, certs.path().join(name)).unwrap();
    }
    let mut allowed = AllowedDirectories::default();
    allowed.add_directory(certs.path());
    let expected = [&certs, &elsewhere, &apart].map(|directory| directory.path().canonicalize().unwrap());
    assert_eq!(allowed.read, BTreeSet::from(expected));
}
