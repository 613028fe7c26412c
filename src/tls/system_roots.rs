//! Finds the system's roots of trust.
//!
//! Most systems keep them twice: in one bundle, and in a directory with a file for each root, of which OpenSSL finds the one that
//! it needs by a link that is named after a hash. To read all of these at each start takes longer than all else that a start does.
//! Guarantee: a root that is in the directory alone is found, too.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use rustls::pki_types::CertificateDer;
use rustls_native_certs::{CertificateResult, ErrorKind, load_native_certs};

use super::pem;
use crate::{config::NamedRoots, files};

/// Where systems keep the files of which they make the bundle and the links of the directory: Debian's `update-ca-certificates`, and
/// Fedora's `update-ca-trust`.
const BUNDLED: [&str; 3] = ["/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/pki/ca-trust/extracted"];

/// The bundles of Debian, Alpine and others, and of Fedora and others.
const BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// What was found.
#[derive(Default)]
pub(super) struct SystemRoots {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// The first file that could not be read.
    pub(super) unreadable: Option<PathBuf>,
    /// The first file that holds a broken certificate.
    pub(super) broken: Option<PathBuf>,
}

impl SystemRoots {
    /// Reads a file, too. A pipe would be waited for, and some devices never end: these count as unreadable.
    fn add_file(&mut self, path: &Path) {
        match path.is_file().then(|| files::read_directly(path)) {
            Some(Ok(text)) => {
                let found: Vec<_> = pem::certificates(&text).collect();
                let is_broken = found.contains(&Err(pem::BrokenBlock));
                self.broken = self.broken.take().or_else(|| is_broken.then(|| path.to_owned()));
                self.certificates.extend(found.into_iter().flatten());
            }
            None | Some(Err(_)) => self.unreadable = self.unreadable.take().or_else(|| Some(path.to_owned())),
        }
    }

    /// Reads every file of a directory, once: many are links to others.
    fn add_directory(&mut self, path: &Path, known: &mut HashSet<(u64, u64)>) {
        let Ok(entries) = fs::read_dir(path) else {
            self.unreadable = self.unreadable.take().or_else(|| Some(path.to_owned()));
            return;
        };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if is_new(&path, known) {
                self.add_file(&path);
            }
        }
    }

    fn add(&mut self, found: CertificateResult) {
        let path = |error| if let ErrorKind::Io { path, .. } = error { Some(path) } else { None };
        self.certificates.extend(found.certs);
        self.unreadable = self.unreadable.take().or_else(|| found.errors.into_iter().find_map(|error| path(error.kind)));
    }
}

/// Whether it is a file that is not `known` yet, and is from now on.
fn is_new(path: &Path, known: &mut HashSet<(u64, u64)>) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && known.insert((file.dev(), file.ino())))
}

/// Reads the system's roots, from where variables say that they are, if they do.
pub(super) fn load(named: Option<NamedRoots>) -> SystemRoots {
    let file = named.as_ref().and_then(|named| named.file.clone());
    let reading = move || {
        let mut roots = SystemRoots::default();
        if let Some(NamedRoots { file, directories }) = named {
            let mut known = HashSet::new();
            if let Some(file) = file {
                is_new(&file, &mut known);
                roots.add_file(&file);
                if let Some(beside) = beside_named(&file, &directories).filter(|_| !roots.certificates.is_empty()) {
                    for file in &beside {
                        roots.add_file(file);
                    }
                    return Ok(roots);
                }
            }
            for directory in directories {
                roots.add_directory(&directory, &mut known);
            }
            return Ok(roots);
        }
        if cfg!(target_os = "linux") {
            for file in bundle_and_directory() {
                roots.add_file(&file);
            }
        }
        if roots.certificates.is_empty() {
            roots.add(load_native_certs());
        }
        Ok(roots)
    };
    // A file that gives no answer counts as no roots.
    files::within(files::LIMIT, reading).unwrap_or_else(|_| SystemRoots { unreadable: file, ..SystemRoots::default() })
}

/// The directories in which the system keeps roots, where no variable names another.
pub fn root_directories() -> impl Iterator<Item = &'static Path> {
    openssl_probe::candidate_cert_dirs()
}

/// The system's bundle, and the files that only its directory has; nothing without a bundle.
fn bundle_and_directory() -> Vec<PathBuf> {
    let found = openssl_probe::probe();
    let Some(bundle) = found.cert_file.filter(|bundle| bundle.is_file()) else { return Vec::new() };
    let beside = found.cert_dir.iter().flat_map(|directory| beside_bundle(directory, &bundle)).collect::<Vec<_>>();
    [vec![bundle], beside].concat()
}

/// The files of the named directory whose roots may not be in the named bundle; nothing where these two are not the system's own.
fn beside_named(file: &Path, directories: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let [directory] = directories else { return None };
    let are_its_own = BUNDLES.iter().any(|bundle| file == Path::new(bundle)) && file.parent() == Some(directory);
    are_its_own.then(|| beside_bundle(directory, file))
}

/// The files of the directory whose roots may not be in the bundle.
fn beside_bundle(directory: &Path, bundle: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let is_apart = |path: &PathBuf| match fs::read_link(path) {
        Ok(target) => {
            let leads_here = matches!(target.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            !leads_here && !BUNDLED.iter().any(|bundled| target.starts_with(bundled))
        }
        Err(_) => path != bundle,
    };
    // A pipe would be waited for.
    entries.map(|entry| entry.path()).filter(is_apart).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn of_the_directory_only_what_may_not_be_in_the_bundle_is_read() {
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("root.pem"), "").unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["ca-certificates.crt", "own.pem", "hashed.0"] {
            fs::write(at(name), "").unwrap();
        }
        fs::create_dir(at("java")).unwrap();
        for (name, target) in [
            ("ISRG_Root_X1.pem", "/usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt"),
            ("local.pem", "/usr/local/share/ca-certificates/local.crt"),
            ("4042bcee.0", "ISRG_Root_X1.pem"),
            ("5042bcee.0", "own.pem"),
            ("linked.pem", &*elsewhere.path().join("root.pem").to_string_lossy()),
            ("dangling.pem", "/nonexistent/root.pem"),
            ("directory.pem", &*elsewhere.path().to_string_lossy()),
        ] {
            symlink(target, at(name)).unwrap();
        }
        let mut names: Vec<_> = beside_bundle(directory.path(), &at("ca-certificates.crt"));
        names.sort();
        assert_eq!(names, ["hashed.0", "linked.pem", "own.pem"].map(at));
        assert_eq!(beside_bundle(&at("none"), Path::new("/")), [""; 0].map(PathBuf::from));
    }

    /// On whatever machine this runs.
    #[test]
    fn of_a_named_directory_less_is_read_only_beside_the_system_s_own_bundle() {
        let own = Path::new("/etc/ssl/certs/ca-certificates.crt");
        let directories = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert!(beside_named(own, &directories(&["/etc/ssl/certs"])).is_some());
        for (file, named) in [
            (own, vec![]),
            (own, directories(&["/etc/pki/tls/certs"])),
            (own, directories(&["/etc/ssl/certs", "/srv/roots"])),
            (Path::new("/etc/ssl/certs/own.pem"), directories(&["/etc/ssl/certs"])),
        ] {
            assert_eq!(beside_named(file, &named), None, "{file:?} {named:?}");
        }
    }

    #[test]
    fn a_broken_root_is_told_and_the_others_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("roots.pem");
        let whole = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        fs::write(&file, format!("-----BEGIN CERTIFICATE-----\nAAE\n{whole}")).unwrap();
        let found = load(Some(NamedRoots { file: Some(file.clone()), directories: Vec::new() }));
        assert_eq!((found.certificates.len(), found.broken, found.unreadable), (1, Some(file), None));
    }

    #[test]
    fn every_root_of_the_system_is_found() {
        let named = |bundle: &str| {
            let file = PathBuf::from(bundle);
            NamedRoots { directories: file.parent().map(Path::to_owned).into_iter().collect(), file: Some(file) }
        };
        let bundles = BUNDLES.iter().filter(|bundle| Path::new(bundle).exists());
        for named in bundles.map(|bundle| Some(named(bundle))).chain([None]) {
            let found = load(named).certificates;
            for root in load_native_certs().certs {
                assert!(found.contains(&root));
            }
        }
    }
}
