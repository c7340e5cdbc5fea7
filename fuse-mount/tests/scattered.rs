//! A volume whose map is as large as it can be, every 4 KiB somewhere else: it is opened, read, written
//! and closed with a part of the map in memory.
//!
//! Nobody could write it here in reasonable time, so its map is made: 32 GiB of disk, and with
//! `LSVD_TEST_SCALE=32` a full TiB.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use common::rng::Rng;
use common::{Lab, scale};
use lsvd_volume::Uuid;
use lsvd_volume::format::data_object::FRAME_BYTES_DEFAULT;
use lsvd_volume::format::{
    CheckpointHeader, CheckpointRef, DataHeader, ExtentKind, FenceHeader, FenceRecord, FrameRef,
    LEAF_SECTORS, LeafExtent, LeafRef, Nonce, ObjectExtent, ObjectRecord, ShortText, Stamp,
    Superblock, compress_frame, encode_leaf,
};
use lsvd_volume::units::{Epoch, Extent, Lba, LogSeq, ObjectSeq};
use xxhash_rust::xxh3::xxh3_64;

/// Memory for the map.
const MEMORY: &str = "--memory=16M";
/// What the daemon may have resident altogether at 32 GiB, whose map would take 128 MiB, and for each
/// doubling more: roots and tables are not evicted, and stand in memory several times while a checkpoint
/// is made. The map of a full TiB would take 4 GiB.
const RESIDENT_MAX_KIB: u64 = 256 << 10;
const RESIDENT_MORE_KIB: u64 = 24 << 10;

const BLOCK: u64 = 4096;
const SECTORS: u64 = BLOCK / 512;
/// Blocks in each object with data.
const OBJECT_BLOCKS: u64 = 1 << 14;
/// Leaves in each checkpoint.
const CHECKPOINT_LEAVES: u64 = 512;
/// Blocks of the disk lie so far from each other in the objects; odd, so that none meets another.
const STEP: u64 = 0x9e37_79b9;

/// Where the blocks of a disk are.
#[derive(Clone, Copy)]
struct Layout {
    blocks: u64,
}

impl Layout {
    fn place(self, block: u64) -> u64 {
        block.wrapping_mul(STEP) % self.blocks
    }

    /// The block of the disk that is at `place`.
    fn block(self, place: u64) -> u64 {
        // The inverse of an odd number modulo a power of two.
        let mut inverse = 1u64;
        for _ in 0..6 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(STEP.wrapping_mul(inverse)));
        }
        place.wrapping_mul(inverse) % self.blocks
    }

    fn objects(self) -> u64 {
        self.blocks / OBJECT_BLOCKS
    }

    fn leaf(self, index: u64) -> Vec<u8> {
        let blocks = u64::from(LEAF_SECTORS) / SECTORS;
        let extents: Vec<_> = (0..blocks)
            .map(|nth| {
                let place = self.place(index * blocks + nth);
                LeafExtent {
                    start: (nth * SECTORS) as u16,
                    sectors: SECTORS as u16,
                    object_sector: (place % OBJECT_BLOCKS * SECTORS) as u32,
                    object: ObjectSeq::new(2 + place / OBJECT_BLOCKS),
                }
            })
            .collect();
        encode_leaf(&extents).unwrap()
    }
}

fn content(place: u64) -> Vec<u8> {
    (place + 1).to_le_bytes().repeat(BLOCK as usize / 8)
}

/// Gives an empty volume its map, and the first object that the map points at.
fn scatter(data: &Path, uuid: Uuid, layout: Layout) {
    let super_file = data.join("super");
    let mut superblock = Superblock::decode(&fs::read(&super_file).unwrap()).unwrap();
    let stamp = |seq: u64| Stamp {
        volume: uuid,
        seq: ObjectSeq::new(seq),
        epoch: Epoch::new(1),
        nonce: Nonce::new(u128::from(seq)),
        window: 8,
        committed: ObjectSeq::new(seq - 1),
        log_seq: LogSeq::ZERO,
        size_sectors: layout.blocks * SECTORS,
        written_ms: 1,
    };
    let objects = data.join("o");
    fs::create_dir_all(&objects).unwrap();
    let put = |seq: u64, bytes: &[u8]| {
        fs::write(objects.join(format!("{seq:016x}")), bytes).unwrap();
    };
    let host = ShortText::truncated("test");
    let fence = FenceHeader { stamp: stamp(1), host: host.clone() };
    put(1, &fence.encode().unwrap());
    put(2, &first_object(stamp(2)));

    let full = OBJECT_BLOCKS * SECTORS;
    let mut records: Vec<_> = (0..layout.objects())
        .map(|nth| ObjectRecord {
            seq: ObjectSeq::new(2 + nth),
            stored_bytes: 1 << 20,
            data_sectors: full,
            live_sectors: full,
            dead_since: None,
            condemned: false,
        })
        .collect();
    let mut leaves: Vec<LeafRef> = Vec::new();
    let all = layout.blocks * SECTORS / u64::from(LEAF_SECTORS);
    let parts = (0..all).step_by(CHECKPOINT_LEAVES as usize);
    for (seq, first) in (2 + layout.objects()..).zip(parts) {
        let mut body = Vec::new();
        for index in first..all.min(first + CHECKPOINT_LEAVES) {
            let bytes = layout.leaf(index);
            leaves.push(LeafRef {
                index,
                last_change: ObjectSeq::new(2),
                object: ObjectSeq::new(seq),
                offset: body.len() as u64,
                len: bytes.len() as u32,
                sum: xxh3_64(&bytes),
            });
            body.extend(bytes);
        }
        let header = CheckpointHeader {
            stamp: stamp(seq),
            clean: true,
            covers: ObjectSeq::new(seq - 1),
            sectors: layout.blocks * SECTORS,
            is_rollback: false,
            leaves: leaves.clone(),
            fences: vec![FenceRecord { id: fence.id(), log_seq: LogSeq::ZERO, host: host.clone() }],
            objects: records.clone(),
            body_len: body.len() as u64,
        };
        let mut bytes = header.encode().unwrap();
        bytes.extend(body);
        put(seq, &bytes);
        records.push(ObjectRecord {
            seq: ObjectSeq::new(seq),
            stored_bytes: bytes.len() as u64,
            data_sectors: 0,
            live_sectors: 0,
            dead_since: None,
            condemned: false,
        });
        let (at, covers) = (ObjectSeq::new(seq), header.covers);
        superblock.checkpoint = Some(CheckpointRef { seq: at, covers });
        superblock.committed = at;
    }
    superblock.epoch = Epoch::new(1);
    fs::write(&super_file, superblock.encode().unwrap()).unwrap();
}

fn first_object(stamp: Stamp) -> Vec<u8> {
    let (mut body, mut frames) = (Vec::new(), Vec::new());
    let of_frame = u64::from(FRAME_BYTES_DEFAULT) / BLOCK;
    for first in (0..OBJECT_BLOCKS).step_by(of_frame as usize) {
        let frame: Vec<u8> = (first..first + of_frame).flat_map(content).collect();
        let before = body.len();
        let codec = compress_frame(lsvd_volume::Compression::Lz4, &frame, &mut body);
        let stored = &body[before..];
        frames.push(FrameRef { stored_len: stored.len() as u32, codec, sum: xxh3_64(stored) });
    }
    let extent = Extent::new(Lba::ZERO, OBJECT_BLOCKS * SECTORS).unwrap();
    let extents = vec![ObjectExtent { extent, kind: ExtentKind::Data }];
    let header = DataHeader::new(stamp, FRAME_BYTES_DEFAULT, extents, frames).unwrap();
    let mut bytes = header.encode();
    bytes.extend(body);
    bytes
}

#[test]
fn a_map_as_large_as_can_be_takes_the_memory_it_is_given() {
    need_mount!();
    let size = (32u64 << 30) * scale().next_power_of_two();
    let layout = Layout { blocks: size / BLOCK };
    let lab = Lab::new();
    let made = lab.json(&["create", "big.img", "--size", &size.to_string()]);
    let uuid = Uuid::parse_str(made["uuid"].as_str().unwrap()).unwrap();
    scatter(&lab.store_dir().join("data").join(uuid.to_string()), uuid, layout);

    // Nothing is cleaned: of what the map points at most is not there.
    let flags = [MEMORY, "--log-memory=8M", "--log-size=64M", "--cache-size=16M", "--gc-start=0"];
    let mount = lab.mount(&flags);
    let started = Instant::now();
    let file = File::options().read(true).write(true).open(mount.file("big.img")).unwrap();
    println!("opening {} GiB: {:.2} s", size >> 30, started.elapsed().as_secs_f64());
    let mut rng = Rng::new(1);
    let mut found = vec![0; BLOCK as usize];
    for _ in 0..400 {
        let place = rng.below(OBJECT_BLOCKS);
        file.read_exact_at(&mut found, layout.block(place) * BLOCK).unwrap();
        assert!(found == content(place), "what lies at {place}");
    }
    println!("after 400 reads: {} MiB resident", mount.memory_kib("VmRSS") >> 10);
    let mut written = BTreeMap::new();
    for nth in 0..2000 {
        let block = rng.below(layout.blocks);
        file.write_all_at(&content(layout.blocks + nth), block * BLOCK).unwrap();
        written.insert(block, nth);
    }
    let started = Instant::now();
    lab.ok(&["flush", "big.img", "--wait"]);
    println!("2000 writes are in the store: {:.2} s", started.elapsed().as_secs_f64());
    for (block, nth) in &written {
        file.read_exact_at(&mut found, block * BLOCK).unwrap();
        assert!(found == content(layout.blocks + nth), "what was written to {block}");
    }
    drop(file);
    let resident = mount.memory_kib("VmHWM");
    println!("most ever resident: {} MiB", resident >> 10);
    mount.unmount();
    let doublings = u64::from(scale().next_power_of_two().ilog2());
    let limit = RESIDENT_MAX_KIB + doublings * RESIDENT_MORE_KIB;
    assert!(resident < limit, "{} MiB were resident", resident >> 10);

    lab.lose_cache();
    let mount = lab.mount(&flags);
    let file = File::open(mount.file("big.img")).unwrap();
    for (block, nth) in written.iter().step_by(10) {
        file.read_exact_at(&mut found, block * BLOCK).unwrap();
        assert!(found == content(layout.blocks + nth), "what was written to {block}");
    }
    drop(file);
    mount.unmount();
}
