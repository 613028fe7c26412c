//! `deploy/install`: what it installs, with which modes, and that it takes all of it away again.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_careportals-sidecar");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a copy of the script with these variables.
fn install(script: &str, variables: &[(&str, &Path)], arguments: &[&str]) -> Output {
    let mut command = Command::new(script);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").envs(variables.iter().copied());
    command.output().unwrap()
}

/// The files below `folder`, by their path, with their mode.
fn files(folder: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), mode);
            }
        }
    }
    found
}

/// What an installation below `prefix` has, apart from licences.
fn expected(prefix: &str) -> BTreeMap<String, u32> {
    let mut files = BTreeMap::from([(format!("{prefix}/bin/careportals-sidecar"), 0o755)]);
    let pages =
        fs::read_dir(format!("{ROOT}/deploy/man")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for page in pages {
        let section = page.rsplit('.').next().unwrap().to_owned();
        files.insert(format!("{prefix}/share/man/man{section}/{page}"), 0o644);
    }
    for completions in [
        "bash-completion/completions/careportals-sidecar",
        "zsh/site-functions/_careportals-sidecar",
        "fish/vendor_completions.d/careportals-sidecar.fish",
    ] {
        files.insert(format!("{prefix}/share/{completions}"), 0o644);
    }
    files
}

fn licences(prefix: &str, names: &[&str]) -> BTreeMap<String, u32> {
    names.iter().map(|name| (format!("{prefix}/share/doc/careportals-sidecar/{name}"), 0o644)).collect()
}

#[test]
fn program_man_pages_completions_and_licences_are_installed_and_removed() {
    let place = tempfile::tempdir().unwrap();
    let script = format!("{ROOT}/deploy/install");
    let variables = [("DESTDIR", place.path())];
    // Twice, since an upgrade finds the files of before.
    for _ in 0..2 {
        let output = install(&script, &variables, &[PROGRAM]);
        assert!(output.status.success(), "{output:?}");
        let mut right = expected("usr/local");
        right.extend(licences("usr/local", &["LICENSE-APACHE", "LICENSE-MIT"]));
        assert_eq!(files(place.path()), right);
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), right.len());
    }
    let installed = place.path().join("usr/local/bin/careportals-sidecar");
    assert!(fs::read(&installed).unwrap() == fs::read(PROGRAM).unwrap(), "the program is another one");
    fs::write(place.path().join("usr/local/bin/another"), "").unwrap();
    let output = install(&script, &variables, &["--remove"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files(place.path()).into_keys().collect::<Vec<_>>(), ["usr/local/bin/another"]);
}

#[test]
fn the_archive_is_installed_from_its_own_folder_below_any_prefix() {
    let place = tempfile::tempdir().unwrap();
    // Laid out as deploy/release/archive does it; beside it lies what is somebody else's.
    let archive = place.path().join("archive");
    fs::create_dir_all(&archive).unwrap();
    let names = ["LICENSE-APACHE", "LICENSE-MIT", "third-party-licenses.txt"];
    for name in names {
        fs::write(archive.join(name), name).unwrap();
        fs::write(place.path().join(name), "another's").unwrap();
    }
    fs::copy(format!("{ROOT}/deploy/install"), archive.join("install")).unwrap();
    fs::write(archive.join("careportals-sidecar"), "the program").unwrap();
    for folder in ["man", "completions"] {
        fs::create_dir(archive.join(folder)).unwrap();
        for entry in fs::read_dir(format!("{ROOT}/deploy/{folder}")).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), archive.join(folder).join(entry.file_name())).unwrap();
        }
    }
    let prefix = place.path().join("prefix");
    let script = archive.join("install");
    let output = install(script.to_str().unwrap(), &[("PREFIX", &prefix)], &[]);
    assert!(output.status.success(), "{output:?}");
    let mut right = expected("prefix");
    right.extend(licences("prefix", &names));
    let installed: BTreeMap<_, _> = files(place.path()).into_iter().filter(|(path, _)| path.starts_with("prefix/")).collect();
    assert_eq!(installed, right);
    assert_eq!(fs::read_to_string(prefix.join("bin/careportals-sidecar")).unwrap(), "the program");
    let licence = fs::read_to_string(prefix.join("share/doc/careportals-sidecar/LICENSE-MIT")).unwrap();
    assert_eq!(licence, "LICENSE-MIT", "it is the archive's");
    let output = install(script.to_str().unwrap(), &[("PREFIX", &prefix)], &["--remove"]);
    assert!(output.status.success(), "{output:?}");
    assert!(files(&prefix).is_empty(), "{:?}", files(&prefix));
}

#[test]
fn without_a_program_nothing_is_installed_and_the_command_that_builds_one_is_told() {
    let place = tempfile::tempdir().unwrap();
    let variables = [("DESTDIR", place.path()), ("CARGO_TARGET_DIR", place.path())];
    let output = install(&format!("{ROOT}/deploy/install"), &variables, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("cargo build --release"));
    assert!(files(place.path()).is_empty());
}

#[test]
fn the_archive_of_a_release_has_the_script_beside_what_it_installs() {
    let archive = crate::read("deploy/release/archive");
    for line in
        ["deploy/install \"$place/$folder/install\"", "cp deploy/man/* \"$place/$folder/man/\"", "cp -R deploy/completions"]
    {
        assert!(archive.contains(line), "deploy/release/archive has lost `{line}`");
    }
}
