//! Statistics that an earlier run collected, in a file of `calibrate`.

use std::path::Path;

use qz_calib::{INPUT_CROSS, ImportanceMatrix, RESULT_CROSS, StatisticsFile};
use qz_linalg::{CrossMean, Symmetric};
use qz_methods::Needs;
use qz_tensor::{FileStates, Location};

use super::captured::Captured;
use crate::calibrate::Group;
use crate::error::Error;
use crate::statistics::LackingKind;

/// An open file.
pub(super) struct Known {
    importance: ImportanceMatrix,
    grams: StatisticsFile,
    /// The file, as it was when it was opened.
    pub(super) files: FileStates,
}

impl Known {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let importance = ImportanceMatrix::open(path)?;
        let mut files = FileStates::default();
        files.note(importance.file());
        Ok(Self { importance, grams: StatisticsFile::open(path)?, files })
    }

    /// Tells this file's content from others'.
    pub(super) fn digest(&self) -> &str {
        self.importance.digest()
    }

    /// What is known of the inputs of a group, or of one of its experts.
    ///
    /// # Errors
    /// If that is less than the method needs.
    pub(super) fn of(&self, group: &Group, expert: usize, needs: Needs) -> Result<Captured, Error> {
        let captured = self.whatever(group, expert, needs)?;
        let is_missing = needs == Needs::Gram && captured.gram.is_none();
        if is_missing || captured.importance.is_none() {
            let location = Location::file(self.importance.path()).tensor(&group.names[0]);
            return Err(Error::MissingStatistics { location, needs });
        }
        Ok(captured)
    }

    /// True if it has anything of a matrix.
    pub(super) fn has(&self, name: &str) -> bool {
        self.importance.entry(name).is_some()
    }

    /// What there is of that, be it nothing.
    pub(super) fn whatever(
        &self,
        group: &Group,
        expert: usize,
        needs: Needs,
    ) -> Result<Captured, Error> {
        let name = &group.names[0];
        let importance = self.importance(name, expert, group.width)?;
        let mut captured = Captured { importance, ..Captured::default() };
        if needs != Needs::Gram {
            return Ok(captured);
        }
        let gram = self.grams.gram(name, group.width)?.filter(|entry| expert < entry.experts);
        if let Some(entry) = gram {
            let entries = self.grams.read(entry, expert)?;
            captured.gram = Some(Symmetric::new(group.width, entries));
        }
        let Some(kind) = group.lacking() else { return Ok(captured) };
        let (suffix, place) = match kind {
            LackingKind::Inputs => (INPUT_CROSS, &mut captured.cross),
            LackingKind::Results(_) => (RESULT_CROSS, &mut captured.missing),
        };
        let shape = (kind.rows(group.width), group.width);
        let cross = self.grams.cross(name, suffix, shape)?;
        if let Some(entry) = cross.filter(|entry| expert < entry.experts) {
            let entries = self.grams.read_cross(entry, expert)?;
            let entries = Some(entries).filter(|own| own.iter().any(|entry| *entry != 0.0));
            *place = entries.map(CrossMean::from);
            captured.is_uncorrected = place.is_none() && group.experts > 1;
        }
        Ok(captured)
    }

    /// The bits per weight of the quantized model, if it says what one lacks.
    pub(super) fn quantized_bits(&self) -> Option<f64> {
        self.grams.quantized_bits()
    }

    /// The importance of a tensor's columns, if the file has it.
    fn importance(
        &self,
        name: &str,
        expert: usize,
        width: usize,
    ) -> Result<Option<Vec<f32>>, Error> {
        let start = (expert * width) as u64;
        let entry = self.importance.entry(name);
        let Some(entry) = entry.filter(|entry| start + width as u64 <= entry.len()) else {
            return Ok(None);
        };
        let mut values = vec![0.0; width];
        self.importance.read(entry, start, &mut values)?;
        Ok(Some(values))
    }
}
