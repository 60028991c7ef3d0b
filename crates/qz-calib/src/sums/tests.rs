use super::*;

fn sums(squares: &[f32], counts: &[u64]) -> TensorSums {
    TensorSums { squares: squares.to_vec(), counts: counts.to_vec() }
}

fn matrix(tensors: &[(&str, TensorSums)], dataset: &str) -> ImportanceSums {
    let tensors = tensors.iter().map(|(name, sums)| ((*name).to_owned(), sums.clone()));
    ImportanceSums { tensors: tensors.collect(), datasets: vec![dataset.to_owned()] }
}

#[test]
fn tensors_are_added() {
    let check = |one: TensorSums, other: TensorSums, expected: Option<TensorSums>| {
        let mut sum = one;
        let fits = sum.merge(&other);
        assert_eq!(fits.then_some(sum), expected);
    };
    check(sums(&[1.0, 2.0], &[3]), sums(&[4.0, 5.0], &[1]), Some(sums(&[5.0, 7.0], &[4])));
    check(TensorSums::default(), sums(&[4.0], &[1]), Some(sums(&[4.0], &[1])));
    // A legacy file's single count holds for each expert.
    check(sums(&[1.0, 2.0], &[3]), sums(&[4.0, 5.0], &[1, 0]), Some(sums(&[5.0, 7.0], &[4, 3])));
    check(sums(&[1.0, 2.0], &[3, 1]), sums(&[4.0, 5.0], &[2]), Some(sums(&[5.0, 7.0], &[5, 3])));
    check(sums(&[1.0, 2.0], &[3]), sums(&[4.0], &[1]), None);
    check(sums(&[1.0; 6], &[3; 2]), sums(&[4.0; 6], &[1; 3]), None);
}

#[test]
fn files_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m");
    let replace = OutputOptions::default().replacing(true);
    let written = matrix(
        &[("b", sums(&[1.0, 2.0, 0.0, 0.0], &[1024, 0])), ("a", sums(&[3.0, 0.5], &[1024]))],
        "some.txt",
    );
    assert_eq!(written.chunks(512), 2);
    written.write_gguf(&path, 512, replace).expect("written");
    let mut read = ImportanceSums::default();
    read.add_file(&path, 512).expect("read");
    assert_eq!(read, written);
    read.add_file(&path, 512).expect("read again");
    assert_eq!(read.chunks(512), 4);
    assert_eq!(read.tensors["a"], sums(&[6.0, 1.0], &[2048]));
    assert_eq!(read.datasets, ["some.txt", "some.txt"]);

    // In a legacy file an expert that nobody counted has a mean of 1.
    written.write_legacy(&path, 512, replace).expect("written");
    let mut read = ImportanceSums::default();
    read.add_file(&path, 512).expect("read");
    let expected =
        [("b", sums(&[1.0, 2.0, 1024.0, 1024.0], &[1024])), ("a", sums(&[3.0, 0.5], &[1024]))];
    assert_eq!(read, matrix(&expected, "some.txt"));
}

#[test]
fn a_file_of_another_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m");
    let one = matrix(&[("a", sums(&[3.0, 0.5], &[1024]))], "some.txt");
    one.write_gguf(&path, 512, OutputOptions::default()).expect("written");
    let mut other = matrix(&[("a", sums(&[3.0], &[1024]))], "some.txt");
    let error = other.add_file(&path, 512).expect_err("refused");
    assert!(error.to_string().contains("another shape"), "{error}");
}
