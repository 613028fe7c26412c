//! Files as their owners find them: modes, and secrets as Kubernetes mounts and renews them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

/// The permissions of a file.
pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Mounts a secret in `mount`, as the kubelet does: each file is a link through `..data` into a directory of this version.
pub fn mount_secret(mount: &Path, version: &str, files: &[(&str, &str)]) {
    fs::create_dir_all(mount).unwrap();
    renew_secret(mount, version, files);
    for (name, _) in files {
        symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
}

/// Renews a mounted secret, as the kubelet does: a new directory, `..data` replaced in one step, the old directory removed.
pub fn renew_secret(mount: &Path, version: &str, files: &[(&str, &str)]) {
    fs::create_dir(mount.join(version)).unwrap();
    for (name, value) in files {
        fs::write(mount.join(version).join(name), value).unwrap();
    }
    let old = fs::read_link(mount.join("..data"));
    symlink(version, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    if let Ok(old) = old {
        fs::remove_dir_all(mount.join(old)).unwrap();
    }
}
