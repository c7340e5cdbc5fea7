//! What a check finds, in words and figures.

use serde::{Deserialize, Serialize};

/// Findings that are listed; further ones are only counted, so that memory stays bounded.
const LISTED_MAX: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Data, or a part of the map, is lost or wrong.
    Damage,
    /// Room is taken up in the store for nothing.
    Leak,
    /// Something belongs to no volume, or a volume has no name.
    Orphan,
    /// Worth knowing; nothing is wrong.
    Note,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The thing, with its key in the store.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
    /// What can be done.
    pub advice: String,
    /// Its bytes in the store, if they are taken up for nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// It was put right.
    pub mended: bool,
}

impl Finding {
    /// A finding that is not mended.
    pub(crate) fn new(
        severity: Severity,
        what: impl ToString,
        detail: impl ToString,
        advice: &str,
    ) -> Self {
        let (what, detail) = (what.to_string(), detail.to_string());
        Self { severity, what, detail, advice: advice.to_owned(), bytes: None, mended: false }
    }

    /// Says how many bytes it takes up.
    pub(crate) fn of_bytes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// Says that it was put right.
    pub(crate) fn mended(self) -> Self {
        Self { mended: true, ..self }
    }
}

/// How many findings there are of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Of [`Severity::Damage`].
    pub damage: u64,
    /// Of [`Severity::Leak`].
    pub leaks: u64,
    /// Their bytes.
    pub leaked_bytes: u64,
    /// Of [`Severity::Orphan`].
    pub orphans: u64,
    /// Of [`Severity::Note`].
    pub notes: u64,
    /// Those of all of them that were put right.
    pub mended: u64,
}

/// What was looked at in one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCheck {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// The checkpoint that was checked, and what it covers; zero if there is none.
    pub checkpoint: u64,
    /// See `checkpoint`.
    pub covers: u64,
    /// Snapshots that were checked as well.
    #[serde(default)]
    pub snapshots: u64,
    /// Objects that the checkpoint knows, and their bytes.
    pub objects: u64,
    /// See `objects`.
    pub stored_bytes: u64,
    /// Objects that wait to be deleted by the volume's next writer, and their bytes.
    pub condemned_objects: u64,
    /// See `condemned_objects`.
    pub condemned_bytes: u64,
    /// Objects after `covers`.
    pub objects_after_checkpoint: u64,
    /// Leaves of the map.
    pub leaves: u64,
    /// Extents of the map that were compared with the headers of their objects.
    pub extents: u64,
    /// Bytes of the disk that they map.
    pub mapped_bytes: u64,
    /// Frames that were read and decompressed.
    pub frames: u64,
    /// Bytes that were read for that.
    pub frame_bytes: u64,
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The store.
    pub store: String,
    /// Whether everything was looked at; false if it was left off before.
    pub complete: bool,
    /// How many findings there are.
    pub tally: Tally,
    /// The first of them.
    pub findings: Vec<Finding>,
    /// How many there are besides.
    pub findings_not_listed: u64,
    /// The volumes that were looked at.
    pub volumes: Vec<VolumeCheck>,
}

impl CheckReport {
    /// Adds a finding, unless it is known.
    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.contains(&finding) {
            return;
        }
        let tally = &mut self.tally;
        match finding.severity {
            Severity::Damage => tally.damage += 1,
            Severity::Leak => {
                tally.leaks += 1;
                tally.leaked_bytes += finding.bytes.unwrap_or(0);
            }
            Severity::Orphan => tally.orphans += 1,
            Severity::Note => tally.notes += 1,
        }
        tally.mended += u64::from(finding.mended);
        match self.findings.len() < LISTED_MAX {
            true => self.findings.push(finding),
            false => self.findings_not_listed += 1,
        }
    }

    /// Whether nothing at all was found.
    pub fn is_clean(&self) -> bool {
        self.complete && self.findings.is_empty()
    }
}

/// How far a check is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProgress {
    /// The volume that is looked at; empty between volumes.
    pub volume: String,
    /// What is being done.
    pub phase: String,
    /// How much of it is done, in steps of its own.
    pub done: u64,
    /// Out of so many.
    pub total: u64,
    /// Bytes of data that were read so far.
    pub read_bytes: u64,
    /// Damage that was found so far.
    pub damage: u64,
}
