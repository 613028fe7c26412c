use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

#[test]
fn our_own_reading_does_not_wake_us() {
    use notify::event::{CreateKind, Event, MetadataKind, ModifyKind, RemoveKind};
    for (kind, wakes) in [
        (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
        (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
        (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
        (EventKind::Create(CreateKind::File), true),
        (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), true),
        (EventKind::Remove(RemoveKind::Folder), true),
        (EventKind::Other, true),
    ] {
        assert_eq!(may_change_something(&Ok(Event::new(kind))), wakes, "{kind:?}");
    }
    assert!(may_change_something(&Err(notify::Error::generic("overflow"))), "what is unknown is looked at");
}

#[tokio::test]
async fn the_watch_ends_with_its_thread_when_dropped() {
    let directory = TempDir::new().unwrap();
    let mut directories = WatchedDirectories::of(vec![directory.path().join("file")]);
    directories.arm().unwrap();
    let event_seen = Arc::clone(&directories.event_seen);
    drop(directories);
    // The thread holds the other reference.
    timeout(Duration::from_secs(10), async {
        while Arc::strong_count(&event_seen) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[test]
fn every_directory_that_can_change_the_content_is_found() {
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
        let relative = |directory: Directory| directory.path.strip_prefix(&root).unwrap().display().to_string();
        directories(&root.join(path)).into_iter().map(relative).collect()
    };
    assert_eq!(found("mount/file"), ["mount", "mount/..1"]);
    assert_eq!(found("outer/link/deep/file"), ["outer", "real/deep"]);
    assert_eq!(found("outer/../real/deep/absent"), ["outer/../real/deep"]);
    assert_eq!(found("absent/deep/file"), [""]);
    assert_eq!(found("mount/..1/file/below"), ["mount/..1"]);
    assert_eq!(found("loop"), [""], "and it ends");
}
