//! Why a digest changed: the entries that differ between two snapshots.
