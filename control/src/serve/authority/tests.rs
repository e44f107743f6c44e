use proptest::prelude::*;

use super::*;

const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const STREAM: [u8; 4] = [0, 0, 0, 1];

/// What comes out when the bytes come in pieces of this length.
fn rewrite(bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut rewriter, mut input, mut output) =
        (Rewriter::Preface, BytesMut::new(), BytesMut::new());
    for part in bytes.chunks(piece) {
        input.put_slice(part);
        rewriter.advance(&mut input, &mut output);
    }
    output.to_vec()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, kind, flags, STREAM, payload);
    bytes.to_vec()
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE.to_vec(), frames.concat()].concat()
}

/// `:method: POST`, a literal `:authority`, and one more literal behind it.
fn block(authority: &[u8]) -> Vec<u8> {
    let len = u8::try_from(authority.len()).expect("short");
    [
        &[0x83, 0x41, len],
        authority,
        &[0x40, 2],
        b"te",
        &[8],
        b"trailers",
    ]
    .concat()
}

#[test]
fn the_value_of_authority_is_replaced_and_nothing_else() {
    let found = with_host_replaced(&block(b"%2Frun%2Ftopolvm%2Flvmd.sock"));
    assert_eq!(found, Some(block(b"d")));
}

/// RFC 7541 C.4.1 and C.4.2: Huffman-coded requests, the second with indexed fields.
#[test]
fn the_examples_of_the_rfc_keep_all_but_their_authority() {
    let first = hex::decode("828684418cf1e3c2e5f23a6ba0ab90f4ff").expect("hex");
    let replaced = with_host_replaced(&first).expect("well formed");
    assert_eq!(hex::encode(replaced), "828684410164");
    let second = hex::decode("828684be5886a8eb10649cbf").expect("hex");
    assert_eq!(with_host_replaced(&second), Some(second));
}

#[test]
fn every_form_of_a_literal_is_found_and_an_empty_value_stays() {
    for first in [0x41, 0x01, 0x11] {
        let before = [&[first, 3], &b"a/b"[..]].concat();
        assert_eq!(with_host_replaced(&before), Some(vec![first, 1, b'd']));
    }
    assert_eq!(with_host_replaced(&[0x41, 0]), Some(vec![0x41, 0]));
    // As gRPC for Python and C++ writes it: the name is a literal, too.
    for name in AUTHORITY_NAMES {
        let before = [&[0x40], name, b"\x0etmp%2Fcap.sock"].concat();
        let after = [&[0x40], name, b"\x01d"].concat();
        assert_eq!(with_host_replaced(&before), Some(after));
    }
    // A size update, and a name index that takes two bytes.
    let other = [&[0x3f, 0xe1, 0x1f, 0x0f, 0x10, 1], &b"v"[..]].concat();
    assert_eq!(with_host_replaced(&other), Some(other));
}

#[test]
fn a_block_in_several_padded_frames_becomes_one_with_its_value_replaced() {
    let whole = block(b"/run/topolvm/lvmd.sock");
    for cut in 0..=whole.len() {
        let (first, second) = whole.split_at(cut);
        let padded = [&[2, 0, 0, 0, 0, 16], first, &[0, 0]].concat();
        let bytes = connection(&[
            frame(4, 0, &[0; 6]),
            frame(HEADERS, PADDED | PRIORITY, &padded),
            frame(CONTINUATION, END_HEADERS, second),
            frame(0, 1, b"body"),
        ]);
        let wanted = connection(&[
            frame(4, 0, &[0; 6]),
            frame(HEADERS, END_HEADERS, &block(b"d")),
            frame(0, 1, b"body"),
        ]);
        for piece in [1, 7, 1000] {
            assert_eq!(rewrite(&bytes, piece), wanted, "cut {cut}, piece {piece}");
        }
    }
}

#[test]
fn a_long_block_is_cut_into_frames_that_every_peer_takes() {
    let mut long = block(b"/s");
    for _ in 0..300 {
        long.extend_from_slice(&[0x00, 1, b'n', 100]);
        long.extend_from_slice(&[b'v'; 100]);
    }
    let (first, rest) = long.split_at(FRAME_BYTES_MAX);
    let bytes = connection(&[
        frame(HEADERS, 0, first),
        frame(CONTINUATION, END_HEADERS, rest),
    ]);
    let found = rewrite(&bytes, 4096);
    let wanted = with_host_replaced(&long).expect("well formed");
    let (first, rest) = wanted.split_at(FRAME_BYTES_MAX);
    assert_eq!(
        found,
        connection(&[
            frame(HEADERS, 0, first),
            frame(CONTINUATION, END_HEADERS, rest)
        ])
    );
}

proptest! {
    #[test]
    fn bytes_of_any_kind_make_no_panic_and_malformed_blocks_pass_unchanged(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        piece in 1..50usize,
    ) {
        rewrite(&[PREFACE.to_vec(), bytes.clone()].concat(), piece);
        if with_host_replaced(&bytes).is_none() {
            let whole = connection(&[frame(HEADERS, END_HEADERS, &bytes)]);
            prop_assert_eq!(rewrite(&whole, piece), whole);
        }
    }

    #[test]
    fn frames_that_are_no_headers_pass_unchanged(
        frames in proptest::collection::vec(
            (prop_oneof![Just(0u8), 2..9u8], any::<u8>(), proptest::collection::vec(any::<u8>(), 0..100)),
            0..10,
        ),
        piece in 1..50usize,
    ) {
        let frames: Vec<_> = frames.iter().map(|(kind, flags, bytes)| frame(*kind, *flags, bytes)).collect();
        let whole = connection(&frames);
        prop_assert_eq!(rewrite(&whole, piece), whole);
    }
}
