//! Statistics that an earlier run collected, in a file of `calibrate`.

use std::path::Path;

use qz_calib::{ImportanceMatrix, StatisticsFile};
use qz_linalg::Symmetric;
use qz_methods::Needs;
use qz_tensor::{FileStates, Location};

use super::capture::Captured;
use crate::calibrate::Group;
use crate::error::Error;

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
        let name = &group.names[0];
        let importance = self.importance(name, expert, group.width)?;
        let mut gram = None;
        if needs == Needs::Gram
            && let Some(entry) = self.grams.gram(name, group.width)?
            && expert < entry.experts
        {
            gram = Some(Symmetric::new(group.width, self.grams.read(entry, expert)?));
        }
        if (needs == Needs::Gram && gram.is_none()) || importance.is_none() {
            let location = Location::file(self.importance.path()).tensor(name);
            return Err(Error::MissingStatistics { location, needs });
        }
        Ok(Captured { gram, importance, ..Captured::default() })
    }

    /// The importance of a tensor's columns, if the file has it.
    pub(super) fn importance(
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
