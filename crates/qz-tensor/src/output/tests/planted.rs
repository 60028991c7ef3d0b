//! What is in the staging folder's place before a run, and nobody else's may be used.

use std::os::unix::fs::symlink;

use super::*;

/// A run after `plant` has prepared the folder that is to hold `out` and `out.partial`;
/// beside it is `victim`, which nothing may change.
fn check(plant: &dyn Fn(&Path, &Path)) {
    for kind in 0..3 {
        let folder = scratch();
        let [at, victim] = ["at", "victim"].map(|name| folder.path().join(name));
        fs::create_dir_all(victim.join("data")).expect("created");
        fs::create_dir(&at).expect("created");
        for name in ["file", "data/photo"] {
            fs::write(victim.join(name), "precious").expect("written");
        }
        plant(&at.join("out.partial"), &victim);
        let (before, all_before) = (names(&victim), names(&at));
        let artifact = kinds(&at)[kind].clone();
        let options = OutputOptions::default().replacing(true);
        let result = StagedArtifact::create(artifact, "job", options);
        assert!(matches!(result, Err(OutputError::NotOurs { .. })), "{result:?}");
        assert_eq!(names(&victim), before);
        assert_eq!(names(&at), all_before);
        for name in ["file", "data/photo"] {
            assert_eq!(fs::read(victim.join(name)).expect("read"), b"precious", "{name}");
        }
    }
}

/// A folder as a run of ours leaves it.
fn left(partial: &Path) {
    fs::create_dir_all(partial.join("data")).expect("created");
    fs::write(partial.join("lock"), "quantize 1\n").expect("written");
}

/// No program makes it: one that starts holds for a moment every lock of this process, which
/// other tests would meet.
fn pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
}

#[test]
fn the_folder_is_a_link_or_a_file() {
    check(&|partial, victim| symlink(victim, partial).expect("linked"));
    check(&|partial, victim| symlink(victim.join("absent"), partial).expect("linked"));
    check(&|partial, _| fs::write(partial, "mine").expect("written"));
    check(&|partial, _| pipe(partial));
}

#[test]
fn files_in_it_lead_elsewhere() {
    for name in ["lock", "journal", "moves", "data", "previous"] {
        let plant = |partial: &Path, make: &dyn Fn(&Path)| {
            left(partial);
            let path = partial.join(name);
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
            make(&path);
        };
        check(&|partial, victim| {
            plant(partial, &|path| symlink(victim.join("file"), path).expect("linked"));
        });
        check(&|partial, victim| {
            plant(partial, &|path| symlink(victim.join("new"), path).expect("linked"));
        });
        check(&|partial, victim| {
            plant(partial, &|path| symlink(victim.join("data"), path).expect("linked"));
        });
        check(&|partial, victim| {
            plant(partial, &|path| fs::hard_link(victim.join("file"), path).expect("linked"));
        });
        check(&|partial, _| plant(partial, &pipe));
    }
}

/// A folder that happens to have the name, or came out of an archive.
#[test]
fn there_is_no_lock_of_ours() {
    check(&|partial, _| {
        fs::create_dir_all(partial.join("data")).expect("created");
        fs::write(partial.join("data/thesis"), "mine").expect("written");
    });
    check(&|partial, _| {
        left(partial);
        fs::write(partial.join("lock"), "").expect("written");
    });
    check(&|partial, _| {
        left(partial);
        fs::write(partial.join("lock"), "mine").expect("written");
    });
    check(&|partial, _| fs::create_dir_all(partial.join("previous/a")).expect("created"));
}

/// What is in `previous` goes to the output's place only if it was taken from there.
#[test]
fn another_previous_is_not_the_old_output() {
    let folder = scratch();
    for kind in [1, 2] {
        let artifact = kinds(folder.path())[kind].clone();
        let staging = Staging::beside(artifact.target());
        left(staging.folder());
        fs::create_dir(staging.previous()).expect("created");
        for (position, name) in ["out-1", "out-2", "a"].iter().enumerate() {
            fs::write(staging.data().join(name), "12345678").expect("written");
            fs::write(staging.previous().join(name), format!("evil {position}")).expect("written");
        }
        let check = |moves: &str, is_refused: bool| {
            fs::write(staging.moves(), moves).expect("written");
            let result = placing::take_back(&artifact, &staging);
            assert_eq!(result.is_err(), is_refused, "{result:?}");
            assert_eq!(names(folder.path()), ["out.partial"]);
        };
        check("", false);
        check("new 1:2:3 out-1\0old 1:2:3 out-1\0old 1:2:3 out-2\0", true);
        check("new 1:2:3 ../out-1\0old 1:2:3 out-1\0", false);
        fs::remove_dir_all(staging.folder()).expect("removed");
    }
}

/// Files in the data that are not the artifact's would be placed with a folder.
#[test]
fn strange_data_is_discarded() {
    let check = |plant: &dyn Fn(&Path, &Path)| {
        let folder = scratch();
        let [_, artifact, _] = kinds(folder.path());
        let mut staged = create(&artifact, "job").expect("created");
        fill(&mut staged, b"1234");
        staged.record("done".to_owned());
        let data = staged.staging.data();
        staged.keep().expect("kept");
        let victim = folder.path().join("victim");
        fs::write(&victim, "87654321").expect("written");
        plant(&data, &victim);
        let mut staged = create(&artifact, "job").expect("created");
        assert!(staged.completed().is_empty());
        fill(&mut staged, b"1234");
        staged.commit().expect("committed");
        assert_eq!(names(artifact.target()), ["a", "b"]);
        assert_eq!(contents(&artifact), all(&artifact, "1234"));
        assert_eq!(fs::read(&victim).expect("read"), b"87654321");
    };
    check(&|data, _| fs::write(data.join("c"), "evil").expect("written"));
    for name in ["a", "b"] {
        check(&|data, victim| {
            fs::remove_file(data.join(name)).expect("removed");
            symlink(victim, data.join(name)).expect("linked");
        });
        check(&|data, victim| {
            fs::remove_file(data.join(name)).expect("removed");
            fs::hard_link(victim, data.join(name)).expect("linked");
        });
    }
}

/// What grows there is nobody else's to read or change.
#[test]
fn the_folder_is_private_and_the_output_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let folder = scratch();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let [_, artifact, _] = kinds(folder.path());
    fs::create_dir(folder.path().join("usual")).expect("created");
    let staged = create(&artifact, "job").expect("created");
    assert_eq!(mode(staged.staging.folder()), 0o700);
    staged.commit().expect("committed");
    assert_eq!(mode(artifact.target()), mode(&folder.path().join("usual")));
}
