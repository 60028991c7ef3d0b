use super::*;

const SIZE: u64 = 8;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("listed");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

fn files(names: &[&str]) -> Vec<ArtifactFile> {
    names.iter().map(|name| ArtifactFile { name: (*name).into(), size: SIZE }).collect()
}

/// The three kinds, all called `out`.
fn kinds(folder: &Path) -> [Artifact; 3] {
    let target = folder.join("out");
    [
        Artifact::file(&target, SIZE),
        Artifact::folder(&target, files(&["a", "b"])),
        Artifact::set(&target, files(&["out-1", "out-2", "out-3"])),
    ]
}

fn create(artifact: &Artifact, fingerprint: &str) -> Result<StagedArtifact, OutputError> {
    StagedArtifact::create(artifact.clone(), fingerprint, OutputOptions::default())
}

fn replacing(artifact: &Artifact, fingerprint: &str) -> StagedArtifact {
    let options = OutputOptions::default().replacing(true);
    StagedArtifact::create(artifact.clone(), fingerprint, options).expect("created")
}

/// Every file holds `text` in its first and second half.
fn fill(staged: &mut StagedArtifact, text: &[u8; 4]) {
    for file in 0..staged.artifact().files().len() {
        staged.write_at(file, 4, text).expect("written");
        staged.write_at(file, 0, text).expect("written");
    }
}

fn put(artifact: &Artifact, text: &[u8; 4]) {
    let mut staged = replacing(artifact, "put");
    fill(&mut staged, text);
    staged.commit().expect("committed");
}

/// What the artifact's files hold; `None` for those that are not there.
fn contents(artifact: &Artifact) -> Vec<Option<String>> {
    let content = |file| fs::read_to_string(artifact.path_of(file)).ok();
    (0..artifact.files().len()).map(content).collect()
}

fn all(artifact: &Artifact, text: &str) -> Vec<Option<String>> {
    vec![Some(text.repeat(2)); artifact.files().len()]
}

#[test]
fn shows_only_when_complete() {
    for kind in 0..3 {
        let folder = scratch();
        let artifact = &kinds(folder.path())[kind];
        let mut staged = create(artifact, "job").expect("created");
        fill(&mut staged, b"1234");
        assert_eq!(names(folder.path()), ["out.partial"]);
        staged.commit().expect("committed");
        assert_eq!(contents(artifact), all(artifact, "1234"));
        assert!(!names(folder.path()).contains(&"out.partial".to_owned()));
    }
}

#[test]
fn a_dropped_output_leaves_nothing() {
    for kind in 0..3 {
        let folder = scratch();
        drop(create(&kinds(folder.path())[kind], "job").expect("created"));
        assert!(names(folder.path()).is_empty());
    }
}

#[test]
fn an_existing_output_is_kept_or_replaced() {
    for kind in 0..3 {
        let folder = scratch();
        let artifact = &kinds(folder.path())[kind];
        put(artifact, b"old ");
        assert!(matches!(create(artifact, "job"), Err(OutputError::Exists(_))));
        drop(replacing(artifact, "job"));
        assert_eq!(contents(artifact), all(artifact, "old "));
        put(artifact, b"new ");
        assert_eq!(contents(artifact), all(artifact, "new "));
        assert!(!names(folder.path()).contains(&"out.partial".to_owned()));
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_never_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |name: &str| {
        let artifact = Artifact::file(&folder.path().join(name), SIZE);
        let options = OutputOptions { replace: true, ..OutputOptions::default() };
        let made = StagedArtifact::create(artifact, "job", options);
        assert!(matches!(made.err(), Some(OutputError::NotReplaceable { .. })), "{name}");
        assert!(!folder.path().join(name).metadata().expect("still there").is_file());
    };
    let socket = folder.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    check("socket");
    std::os::unix::fs::symlink(&socket, folder.path().join("link")).expect("a link");
    check("link");
}

#[test]
fn one_file_of_a_set_that_exists_keeps_the_set_away() {
    let folder = scratch();
    let [.., set] = kinds(folder.path());
    fs::write(folder.path().join("out-2"), "mine").expect("written");
    assert!(matches!(create(&set, "job"), Err(OutputError::Exists(_))));
    assert_eq!(names(folder.path()), ["out-2"]);
}

#[test]
fn what_is_no_artifact_is_not_replaced() {
    let check = |kind: usize, occupy: &dyn Fn(&Path)| {
        let folder = scratch();
        let artifact = kinds(folder.path())[kind].clone();
        occupy(folder.path());
        let before = names(folder.path());
        for replace in [false, true] {
            let options = OutputOptions::default().replacing(replace);
            let result = StagedArtifact::create(artifact.clone(), "job", options);
            assert!(matches!(result, Err(OutputError::NotReplaceable { .. })), "{result:?}");
            assert_eq!(names(folder.path()), before);
        }
    };
    let folder = |at: &Path, name: &str| fs::create_dir_all(at.join(name)).expect("created");
    let file = |at: &Path, name: &str| fs::write(at.join(name), "mine").expect("written");
    check(0, &|at| folder(at, "out"));
    check(1, &|at| file(at, "out"));
    check(1, &|at| {
        folder(at, "out");
        file(at, "out/thesis.txt");
    });
    check(1, &|at| {
        folder(at, "out/photos");
        file(at, "out/a");
    });
    check(2, &|at| folder(at, "out-2"));
}

#[test]
fn an_empty_folder_is_free() {
    let folder = scratch();
    let [_, artifact, _] = kinds(folder.path());
    fs::create_dir(artifact.target()).expect("created");
    let mut staged = create(&artifact, "job").expect("created");
    fill(&mut staged, b"1234");
    staged.commit().expect("committed");
    assert_eq!(contents(&artifact), all(&artifact, "1234"));
}

#[test]
fn a_second_writer_is_told_of_the_first() {
    let folder = scratch();
    let [file, ..] = kinds(folder.path());
    let _first = create(&file, "job").expect("created");
    let Err(OutputError::Locked { holder, .. }) = create(&file, "job") else {
        panic!("two writers at once")
    };
    assert_eq!(holder, Some(std::process::id()));
}

#[test]
fn a_kept_output_is_continued_by_the_same_job_only() {
    for kind in 0..3 {
        let folder = scratch();
        let artifact = &kinds(folder.path())[kind];
        let begin = |artifact: &Artifact, fingerprint| {
            let mut staged = create(artifact, fingerprint).expect("created");
            let found = staged.completed().to_vec();
            staged.write_at(0, 0, b"1234").expect("written");
            staged.record("first half".to_owned());
            staged.keep().expect("kept");
            found
        };
        assert!(begin(artifact, "a").is_empty());
        assert_eq!(begin(artifact, "a"), ["first half"]);
        assert!(begin(artifact, "b").is_empty());
        let other = Artifact::set(artifact.target(), files(&["out-1", "out-2"]));
        assert!(begin(&other, "b").is_empty());
    }
}

/// A set killed after any of its steps is never a mixture, and the next run finds
/// the old one whole and continues the new one.
/// A record is in the journal once the flush after it was begun: what a killed process
/// leaves needs no orderly end.
#[test]
fn a_checkpoint_writes_records_down() {
    let folder = scratch();
    for artifact in kinds(folder.path()) {
        let mut staged = create(&artifact, "job").expect("created");
        for piece in ["first", "second"] {
            fill(&mut staged, b"new ");
            staged.record(piece.to_owned());
            staged.checkpoint();
        }
        // The second flush began after the first had ended.
        let journal = fs::read_to_string(staged.staging.journal()).expect("read");
        assert!(journal.contains("\nfirst\n"), "{journal}");
    }
}

#[test]
fn a_set_survives_a_kill_between_any_two_moves() {
    let check = |has_old: bool, steps_taken: usize| -> bool {
        let folder = scratch();
        let [.., set] = kinds(folder.path());
        if has_old {
            put(&set, b"old ");
        }
        let before = contents(&set);
        let mut staged = replacing(&set, "job");
        fill(&mut staged, b"new ");
        staged.record("done".to_owned());
        let staging = staged.staging.clone();
        staged.keep().expect("kept");
        placing::write_moves(&set, &staging).expect("written");
        fs::create_dir(staging.previous()).expect("created");
        let steps = placing::steps_of_set(&set, &staging).expect("looked at");
        steps[..steps_taken].iter().for_each(|step| step.take().expect("taken"));
        let is_placed = steps_taken == steps.len();

        let seen = contents(&set);
        let is_whole = seen == before || seen == all(&set, "new ");
        assert!(seen[0].is_none() || is_whole, "after {steps_taken}: {seen:?}");
        assert_eq!(seen == all(&set, "new "), is_placed);

        // Another job, which then fails: the old one is back.
        if !is_placed {
            let staged = replacing(&set, "job");
            assert_eq!(staged.completed(), ["done"]);
            assert_eq!(contents(&set), before, "after {steps_taken}");
            staged.commit().expect("committed");
        }
        assert_eq!(contents(&set), all(&set, "new "));
        drop(replacing(&set, "another job"));
        assert_eq!(names(folder.path()), ["out-1", "out-2", "out-3"]);
        !is_placed
    };
    for has_old in [false, true] {
        let mut steps_taken = 0;
        while check(has_old, steps_taken) {
            steps_taken += 1;
        }
        assert!(steps_taken >= if has_old { 10 } else { 7 }, "{steps_taken}");
    }
}

/// A file that took the name of one that was being moved is not ours to move.
#[test]
fn taking_back_leaves_strange_files_alone() {
    let folder = scratch();
    let [.., set] = kinds(folder.path());
    let mut staged = replacing(&set, "job");
    fill(&mut staged, b"new ");
    let staging = staged.staging.clone();
    staged.keep().expect("kept");
    placing::write_moves(&set, &staging).expect("written");
    fs::create_dir(staging.previous()).expect("created");
    let steps = placing::steps_of_set(&set, &staging).expect("looked at");
    steps[..steps.len() - 1].iter().for_each(|step| step.take().expect("taken"));
    fs::remove_file(folder.path().join("out-2")).expect("removed");
    fs::write(folder.path().join("out-2"), "new mine").expect("written");
    assert!(matches!(create(&set, "job"), Err(OutputError::Exists(_))));
    assert_eq!(fs::read(folder.path().join("out-2")).expect("read"), b"new mine");
    assert!(!folder.path().join("out-3").exists());
}

/// Where folders cannot change places, a kill may fall between two renames.
#[test]
fn a_folder_that_was_moved_aside_is_put_back() {
    let folder = scratch();
    let [_, artifact, _] = kinds(folder.path());
    put(&artifact, b"old ");
    let staged = replacing(&artifact, "job");
    let staging = staged.staging.clone();
    staged.keep().expect("kept");
    placing::write_moves(&artifact, &staging).expect("written");
    fs::rename(artifact.target(), staging.previous()).expect("moved");
    drop(replacing(&artifact, "job"));
    assert_eq!(contents(&artifact), all(&artifact, "old "));
}

/// The old folder, exchanged for the new one, is not taken for unfinished work.
#[test]
fn a_kill_after_the_exchange_of_folders_continues_nothing() {
    let folder = scratch();
    let [_, artifact, _] = kinds(folder.path());
    put(&artifact, b"old ");
    let mut staged = replacing(&artifact, "job");
    fill(&mut staged, b"new ");
    staged.record("done".to_owned());
    let staging = staged.staging.clone();
    staged.keep().expect("kept");
    placing::place(&artifact, &staging, true).expect("placed");
    assert_eq!(contents(&artifact), all(&artifact, "new "));
    assert!(replacing(&artifact, "job").completed().is_empty());
}

/// A failed move leaves the old artifact where it was.
#[test]
fn a_move_that_fails_is_undone() {
    let folder = scratch();
    let [.., set] = kinds(folder.path());
    put(&set, b"old ");
    let mut staged = replacing(&set, "job");
    fill(&mut staged, b"new ");
    fs::remove_file(staged.staging.data().join("out-2")).expect("removed");
    assert!(matches!(staged.commit(), Err(OutputError::Io { .. })));
    assert_eq!(contents(&set), all(&set, "old "));
    assert_eq!(names(folder.path()), ["out-1", "out-2", "out-3"]);
}

#[test]
fn a_full_disk_is_told_in_units() {
    let needed =
        |available| OutputError::NoSpace { path: "x.gguf".into(), needed: 144_810_880, available };
    let with = needed(Some(40 << 20)).to_string();
    assert!(with.contains("needs 138.10 MiB, 40.00 MiB are free"), "{with}");
    assert!(needed(None).to_string().ends_with("needs 138.10 MiB"));
}

#[cfg(unix)]
mod planted;

/// Only the build that began it goes on with an output.
#[test]
fn another_build_starts_over() {
    let folder = scratch();
    let [file, ..] = kinds(folder.path());
    let begin = |program| {
        let options = OutputOptions { program, ..OutputOptions::default() };
        let mut staged = StagedArtifact::create(file.clone(), "job", options).expect("created");
        let found = staged.completed().len();
        staged.record("piece".to_owned());
        staged.keep().expect("kept");
        found
    };
    assert_eq!(["one", "one", "two", "one"].map(begin), [0, 1, 0, 0]);
}

/// Records reach the journal once so many bytes are written.
#[test]
fn the_interval_of_records_is_a_parameter() {
    let check = |journal_every, is_journalled: bool| {
        let folder = scratch();
        let [file, ..] = kinds(folder.path());
        let options = OutputOptions { journal_every, ..OutputOptions::default() };
        let mut staged = StagedArtifact::create(file, "job", options).expect("created");
        // A flush begins only while none is under way, and takes its time.
        let most = if is_journalled { usize::MAX } else { 100 };
        let is_found = (0..most).any(|_| {
            staged.record("piece".to_owned());
            fill(&mut staged, b"1234");
            fs::read_to_string(staged.staging.journal()).expect("read").contains("piece")
        });
        assert_eq!(is_found, is_journalled);
    };
    check(8, true);
    check(1 << 20, false);
}

mod tensors {
    use super::*;
    use crate::tensor::{TensorIndex, TensorSink};

    struct Sink(StagedTensors);

    impl StagedSink for Sink {
        type Error = OutputError;

        fn staged(&self) -> &StagedTensors {
            &self.0
        }

        fn staged_mut(&mut self) -> &mut StagedTensors {
            &mut self.0
        }

        fn into_staged(self) -> StagedTensors {
            self.0
        }
    }

    /// Two tensors of eight bytes behind a seal of four.
    fn begin(folder: &Path) -> Sink {
        let artifact = Artifact::file(&folder.join("out"), 20);
        let placed = |number: u64| PlacedTensor {
            name: format!("tensor {number}"),
            file: 0,
            offset: 4 + 8 * number,
            bytes: 8,
        };
        let starts = [(b"SEAL".to_vec(), 4)];
        let options = OutputOptions::default();
        let tensors = (0..2).map(placed);
        Sink(StagedTensors::begin(artifact, starts, tensors, "job", options).expect("begun"))
    }

    /// Puts a tensor in two halves, the first one first or last.
    fn put(sink: &mut Sink, number: usize, in_order: bool) {
        let mut halves = [(0, b"1234"), (4, b"5678")];
        if !in_order {
            halves.reverse();
        }
        for (offset, bytes) in halves {
            sink.put(TensorIndex(number), offset, bytes).expect("put");
        }
        sink.record_complete(TensorIndex(number), 0);
    }

    #[test]
    fn a_flipped_bit_is_found_and_the_tensor_written_again() {
        for bit in (0..128).step_by(9) {
            let folder = scratch();
            let mut sink = begin(folder.path());
            put(&mut sink, 0, true);
            put(&mut sink, 1, false);
            sink.keep().expect("kept");

            let path = folder.path().join("out.partial/data/out");
            let mut bytes = fs::read(&path).expect("read");
            bytes[4 + bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).expect("written");

            let mut sink = begin(folder.path());
            let damaged = bit / 64;
            assert_eq!(sink.damaged(), [TensorIndex(damaged)]);
            assert_eq!(sink.completed(), [TensorIndex(1 - damaged)]);
            put(&mut sink, damaged, true);
            sink.finish().expect("finished");
            let found = fs::read(folder.path().join("out")).expect("read");
            assert_eq!(found, b"SEAL1234567812345678");
        }
    }

    /// A record that was changed speaks of nothing.
    #[test]
    fn a_changed_record_is_no_record() {
        let check = |edit: &dyn Fn(String) -> String, completed: usize, damaged: usize| {
            let folder = scratch();
            let mut sink = begin(folder.path());
            put(&mut sink, 0, true);
            sink.keep().expect("kept");
            let path = folder.path().join("out.partial/journal");
            let journal = fs::read_to_string(&path).expect("read");
            fs::write(&path, edit(journal)).expect("written");
            let sink = begin(folder.path());
            assert_eq!((sink.completed().len(), sink.damaged().len()), (completed, damaged));
        };
        check(&|journal| journal, 1, 0);
        check(&|journal| journal.replace("\n0 ", "\n1 "), 0, 0);
        check(&|journal| journal.replace("\n0 ", "\n7 "), 0, 0);
        check(&|journal| journal.trim_end().to_owned(), 0, 0);
        check(&|journal| journal.replace("tensor 0", "tensor 1"), 0, 0);
        check(&|journal| journal.replace("\n0 ", "\n0 1"), 0, 0);
        check(&|journal| format!("{journal}0 00000000 0 tensor 0\n"), 0, 1);
    }
}
