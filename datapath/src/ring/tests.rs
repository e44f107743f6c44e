use std::fs;

use proptest::prelude::*;

use super::*;

const SLOT: usize = 64 << 10;
const FILE: u64 = 1 << 20;

/// A block-aligned operation.
#[derive(Debug, Clone)]
enum Operation {
    Write { block: u64, blocks: usize, fill: u8 },
    Read { block: u64, blocks: usize },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let blocks_max = SLOT / 4096;
    let place = (0..FILE / 4096, 1..=blocks_max)
        .prop_filter("inside the file", |(block, blocks)| {
            block * 4096 + (*blocks as u64) * 4096 <= FILE
        });
    let operation = (place, any::<Option<u8>>()).prop_map(|((block, blocks), fill)| match fill {
        Some(fill) => Operation::Write {
            block,
            blocks,
            fill,
        },
        None => Operation::Read { block, blocks },
    });
    proptest::collection::vec(operation, 1..40)
}

/// Runs the operations one after the other and holds every read against a plain vector.
async fn run(engine: IoEngine, operations: &[Operation]) -> Mode {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("volume");
    let file = File::create_new(&path).expect("create");
    file.set_len(FILE).expect("set_len");
    let file = crate::device::open_for_write(&path).expect("open").file;
    // Small enough for an ordinary user's memlock limit.
    let arena = Arena::new(4, SLOT).expect("mmap");
    let queue = BlockQueue::open(file, &arena, engine, 4).expect("open");
    let mut model = vec![0u8; usize::try_from(FILE).expect("small")];
    for operation in operations {
        let mut slot = arena.acquire().await;
        match *operation {
            Operation::Write {
                block,
                blocks,
                fill,
            } => {
                let len = blocks * 4096;
                slot[..len].fill(fill);
                queue
                    .write(slot, 0..len, block * 4096)
                    .await
                    .expect("write");
                let at = usize::try_from(block).expect("small") * 4096;
                model[at..at + len].fill(fill);
            }
            Operation::Read { block, blocks } => {
                let len = blocks * 4096;
                let slot = queue.read(slot, block * 4096, len).await.expect("read");
                let at = usize::try_from(block).expect("small") * 4096;
                assert!(slot[..len] == model[at..at + len], "{operation:?}");
            }
        }
    }
    queue.flush().await.expect("flush");
    assert!(fs::read(&path).expect("read back") == model);
    queue.mode()
}

/// So many, unless PROPTEST_CASES says otherwise.
fn cases(usual: u32) -> u32 {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None => usual,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]

    #[test]
    fn ring_and_twin_both_behave_as_a_plain_vector(operations in operations()) {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(async {
            let ring = run(IoEngine::Uring, &operations).await;
            prop_assert_ne!(ring, Mode::Sync, "this host forbids io_uring");
            prop_assert_eq!(run(IoEngine::Sync, &operations).await, Mode::Sync);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_read_past_the_end_is_an_error_and_the_slot_comes_home() {
    for engine in [IoEngine::Uring, IoEngine::Sync] {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("volume");
        fs::write(&path, vec![7u8; 8192]).expect("write");
        let file = crate::device::open_for_read(&path, true)
            .expect("open")
            .file;
        let arena = Arena::new(1, SLOT).expect("mmap");
        let queue = BlockQueue::open(file, &arena, engine, 2).expect("open");
        let error = queue.read(arena.acquire().await, 4096, 8192).await.err();
        assert_eq!(
            error.map(|e| e.kind()),
            Some(io::ErrorKind::UnexpectedEof),
            "{engine:?}"
        );
        let slot = queue.read(arena.acquire().await, 4096, 4096).await;
        assert!(slot.expect("read")[..4096].iter().all(|&byte| byte == 7));
    }
}

#[tokio::test]
async fn a_caller_that_stops_waiting_leaves_the_buffer_with_the_kernel_until_it_is_done() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("volume");
    fs::write(&path, vec![9u8; 1 << 20]).expect("write");
    let arena = Arena::new(2, SLOT).expect("mmap");
    for _ in 0..200 {
        let file = crate::device::open_for_read(&path, true)
            .expect("open")
            .file;
        let queue = BlockQueue::open(file, &arena, IoEngine::Uring, 2).expect("open");
        let slot = arena.acquire().await;
        let read = queue.read(slot, 0, SLOT);
        tokio::select! {
            biased;
            result = read => { result.expect("read"); }
            () = tokio::task::yield_now() => {}
        }
        drop(queue);
        // Both slots come back, whatever became of the read.
        let _both = (arena.acquire().await, arena.acquire().await);
    }
}

#[tokio::test]
async fn slots_that_the_kernel_does_not_register_work_too() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("volume");
    fs::write(&path, vec![5u8; 8192]).expect("write");
    let file = crate::device::open_for_read(&path, true)
        .expect("open")
        .file;
    let arena = Arena::new(1026, 4096).expect("mmap");
    let queue = BlockQueue::open(file, &arena, IoEngine::Uring, 2).expect("open");
    let mut held = Vec::new();
    for _ in 0..arena.slots() {
        let slot = queue.read(arena.acquire().await, 4096, 4096).await;
        let slot = slot.expect("read");
        assert!(slot.iter().all(|&byte| byte == 5), "{}", slot.index());
        held.push(slot);
    }
}

#[tokio::test]
async fn a_queue_is_closed_when_what_was_in_flight_has_ended() {
    for engine in [IoEngine::Uring, IoEngine::Sync] {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("volume");
        fs::write(&path, vec![9u8; 1 << 20]).expect("write");
        let file = crate::device::open_for_read(&path, true)
            .expect("open")
            .file;
        let arena = Arena::new(2, SLOT).expect("mmap");
        let queue = BlockQueue::open(file, &arena, engine, 2).expect("open");
        let closed = queue.closed();
        let read = queue.read(arena.acquire().await, 0, SLOT);
        tokio::select! {
            biased;
            result = read => drop(result.expect("read")),
            () = tokio::task::yield_now() => {}
        }
        drop(queue);
        closed.await;
        let open = fs::read_dir("/proc/self/fd")
            .expect("descriptors")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        assert_eq!(
            open.filter(|target| *target == path).count(),
            0,
            "{engine:?}"
        );
    }
}
