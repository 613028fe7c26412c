use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn every_way_of_writing_is_an_event_and_our_own_reading_is_none() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    let other = directory.path().join("other");
    fs::write(&path, "x").unwrap();
    let mut directories = WatchedDirectories::of(vec![path.clone()]);
    directories.arm().unwrap();
    let no_event =
        async |directories: &WatchedDirectories| timeout(Duration::from_millis(200), directories.event()).await.is_err();
    fs::read(&path).unwrap();
    fs::read_dir(directory.path()).unwrap().count();
    assert!(no_event(&directories).await, "reading");
    // As through another mount of the file: what its directory sees goes to the other one.
    let elsewhere = TempDir::new_in(directory.path()).unwrap();
    let other_name = elsewhere.path().join("other name");
    fs::hard_link(&path, &other_name).unwrap();
    while !no_event(&directories).await {}
    let changes: [(&str, &dyn Fn()); 6] = [
        ("rewriting by another name", &|| fs::write(&other_name, "w").unwrap()),
        ("rewriting", &|| fs::write(&path, "y").unwrap()),
        ("making another file", &|| fs::write(&other, "z").unwrap()),
        ("renaming over", &|| fs::rename(&other, &path).unwrap()),
        ("removing", &|| fs::remove_file(&path).unwrap()),
        ("linking", &|| symlink("elsewhere", &path).unwrap()),
    ];
    for (what, change) in changes {
        change();
        timeout(Duration::from_secs(10), directories.event()).await.expect(what);
        while !no_event(&directories).await {}
    }
}

#[test]
fn every_directory_that_can_change_the_content_is_found_and_the_file() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for folder in ["mount/..1", "real/deep", "outer"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("mount/..1/file"), "x").unwrap();
    fs::write(root.join("real/deep/file"), "x").unwrap();
    symlink("..1", root.join("mount/..data")).unwrap();
    symlink("..data/file", root.join("mount/file")).unwrap();
    symlink(root.join("real"), root.join("outer/link")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let found = |path: &str| -> Vec<String> {
        let relative = |watched: WatchedPath| watched.path.strip_prefix(&root).unwrap().display().to_string();
        watched_paths(&root.join(path)).into_iter().map(relative).collect()
    };
    assert_eq!(found("mount/file"), ["mount", "mount/..1", "mount/..1/file"]);
    assert_eq!(found("outer/link/deep/file"), ["outer", "real/deep", "real/deep/file"]);
    assert_eq!(found("outer/../real/deep/absent"), ["outer/../real/deep"]);
    assert_eq!(found("absent/deep/file"), [""]);
    assert_eq!(found("mount/..1/file/below"), ["mount/..1"]);
    assert_eq!(found("loop"), [""], "and it ends");
}
