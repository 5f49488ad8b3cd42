//! What a node does per chunk and per message, in a build of 10 GB in chunks of 1 MiB.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use p2p_core::pick::{Availability, Choice};
use p2p_core::wire::{self, Have, Message, RequestId};
use p2p_core::{
    Action, BuildId, ChunkInfo, ChunkLayout, ChunkSet, Contact, Digest, Entry, EntryKind, Event,
    Holdings, Instant, Location, Manifest, NodeId, PeerRole, Prng, Seed, Swarm, SwarmConfig,
    SwarmParams, Verdict,
};

const CHUNKS: u32 = 10_000;
const CHUNK_BYTES: u32 = 1 << 20;
const NEIGHBOURS: u8 = 15;

fn layout() -> ChunkLayout {
    ChunkLayout::new(vec![CHUNK_BYTES; CHUNKS as usize].into_iter()).unwrap()
}

/// About one in `of` chunks, the same ones at every call.
fn one_in(of: u64, seed: u64) -> ChunkSet {
    let layout = layout();
    let mut prng = Prng::from_seed(Seed::from_u64(seed));
    let mut set = ChunkSet::empty(CHUNKS);
    for chunk in layout.indices().filter(|_| prng.below(of) == 0) {
        set.insert(chunk);
    }
    set
}

pub(crate) fn chunk_sets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunk set of 10,000");
    let (half, tenth) = (one_in(2, 1), one_in(10, 2));
    let layout = layout();
    group.bench_function("insert all", |bench| {
        bench.iter_batched(
            || ChunkSet::empty(CHUNKS),
            |mut set| {
                for chunk in layout.indices() {
                    set.insert(chunk);
                }
                set
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("walk half", |bench| {
        bench.iter(|| black_box(&half).iter().map(|chunk| u64::from(chunk.get())).sum::<u64>());
    });
    group.bench_function("walk difference", |bench| {
        bench.iter(|| black_box(&half).iter_without(&tenth).count());
    });
    group.bench_function("to bytes and back", |bench| {
        bench.iter(|| ChunkSet::from_bytes(CHUNKS, &black_box(&half).to_bytes()));
    });
}

/// Late in a download there is little left to pick from, and it takes longest to find.
pub(crate) fn picking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick of 10,000");
    let offered = ChunkSet::full(CHUNKS);
    let mut availability = Availability::new(CHUNKS);
    for neighbour in 0..u64::from(NEIGHBOURS) {
        availability.add_host(&one_in(2, 10 + neighbour));
    }
    let asked = ChunkSet::empty(CHUNKS);
    let sample_max = SwarmConfig::host().pick_sample_max;
    let mut late = ChunkSet::full(CHUNKS);
    let missing: Vec<_> = one_in(1_000, 5).iter().collect();
    for chunk in missing {
        late.remove(chunk);
    }
    for (name, have) in [("rarest, at the start", one_in(1_000, 3)), ("rarest, at the end", late)] {
        let choice = Choice {
            offered: &offered,
            have: &have,
            asked: &asked,
            availability: &availability,
            kept_back: None,
        };
        let mut prng = Prng::from_seed(Seed::from_u64(4));
        group.bench_function(name, |bench| {
            bench.iter(|| black_box(&choice).pick_rarest(sample_max, &mut prng));
        });
    }
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn contact(number: u8, role: PeerRole) -> Contact {
    let address = format!("10.0.0.{number}:1").parse().unwrap();
    let location = Location::default();
    Contact { node: node(number), control: address, data: address, role, location }
}

/// A host that knows the manifest and meets neighbours that have everything.
fn downloader() -> Swarm {
    let params = SwarmParams {
        config: SwarmConfig::host().into(),
        build: BuildId::of_manifest(b"bench"),
        contact: contact(200, PeerRole::Host),
        trackers: Vec::new(),
        remembered: Vec::new(),
        seed: Seed::from_u64(6),
    };
    let holdings = Holdings::Chunks { layout: Arc::new(layout()), have: ChunkSet::empty(CHUNKS) };
    Swarm::new(params, holdings, Instant::ZERO)
}

/// Runs a download whose requests are all answered at once; the events it took.
fn download(swarm: &mut Swarm) -> u64 {
    let mut now = Instant::ZERO;
    let mut events = vec![Event::Started];
    let everything = Have::of(&ChunkSet::full(CHUNKS));
    for number in 1..=NEIGHBOURS {
        let peer = node(number);
        let contact = Box::new(contact(number, PeerRole::Host));
        let message = Message::Join { contact, have: Some(everything.clone()) };
        events.push(Event::PeerConnected { peer });
        events.push(Event::MessageReceived { peer, message });
    }
    let mut handled = 0;
    while !swarm.is_complete() {
        if events.is_empty() {
            now = swarm.next_deadline().unwrap().at.max(now);
            events.push(Event::DeadlineReached);
        }
        for event in std::mem::take(&mut events) {
            now = now.after(Duration::from_micros(100));
            swarm.handle_event(now, event);
            handled += 1;
            while let Some(action) = swarm.poll_action() {
                if let Action::Fetch { request, chunk, .. } = action {
                    let verdict = Verdict::Matches;
                    events.push(Event::ChunkHashed { request, chunk, verdict });
                }
            }
        }
    }
    handled
}

pub(crate) fn swarm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("swarm");
    group.sample_size(10).throughput(Throughput::Elements(CHUNKS.into()));
    group.bench_function("download of 10,000 chunks from 15 hosts", |bench| {
        bench.iter_batched_ref(downloader, download, BatchSize::PerIteration);
    });
}

pub(crate) fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    let half = Some(Have::of(&one_in(2, 1)));
    let offered: Vec<_> = one_in(100, 7).iter().collect();
    let cases = [
        ("request", Message::Request { request: RequestId(7_000), chunk: 9_000 }),
        ("offer of 100 runs", Message::offer(&offered)),
        (
            "join with half of 10,000",
            Message::Join { contact: Box::new(contact(1, PeerRole::Host)), have: half },
        ),
    ];
    for (name, message) in cases {
        let encoded = wire::encode(&message);
        group.bench_function(format!("encode {name}"), |bench| {
            bench.iter(|| wire::encode(black_box(&message)));
        });
        group.bench_function(format!("decode {name}"), |bench| {
            bench.iter(|| wire::decode_message(black_box(&encoded)));
        });
    }
}

/// A manifest of 1,000 files.
fn manifest() -> Manifest {
    const FILES: u32 = 1_000;
    let per_file = u64::from(CHUNKS / FILES) * u64::from(CHUNK_BYTES);
    let file = |number: u32| Entry {
        path: format!("lib/module-{number:06}.so"),
        kind: EntryKind::File { size: per_file, executable: false },
    };
    let lib = Entry { path: "lib".to_owned(), kind: EntryKind::Directory };
    let entries = std::iter::once(lib).chain((0..FILES).map(file)).collect();
    let chunk =
        |number: u32| ChunkInfo { digest: Digest::of(&number.to_le_bytes()), size: CHUNK_BYTES };
    Manifest::new(entries, (0..CHUNKS).map(chunk).collect()).unwrap()
}

pub(crate) fn manifests(criterion: &mut Criterion) {
    let manifest = manifest();
    let encoded = manifest.encode().unwrap();
    let build = BuildId::of_manifest(&encoded);
    let mut group = criterion.benchmark_group("manifest of 10,000 chunks, 1,000 files");
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("encode", |bench| bench.iter(|| black_box(&manifest).encode()));
    group.bench_function("decode and check", |bench| {
        bench.iter(|| Manifest::decode(build, black_box(&encoded)).unwrap());
    });
}
