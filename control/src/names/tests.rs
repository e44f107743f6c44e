use proptest::prelude::*;

use super::*;

#[test]
fn names_that_lvm_takes_are_taken() {
    for name in [
        "a",
        "f7e0c2b4-63a5-4a10-9ab4-5f3d0e8e9d1c",
        "pvc-1",
        "_x",
        "+x",
        ".x",
        "...",
        "my_snapshot",
        "a_data",
        "ringback",
        &"x".repeat(127),
    ] {
        assert_eq!(VolumeName::parse(name).expect(name).as_str(), name);
    }
}

#[test]
fn names_that_lvm_or_ringback_keep_are_refused_with_what_would_be_right() {
    for (name, says) in [
        ("", "is empty"),
        (".", "means a directory"),
        ("..", "means a directory"),
        ("-a", "begins with a hyphen"),
        ("a b", "has the character ' '"),
        ("a/b", "has the character '/'"),
        ("a\0", "has the character '\\0'"),
        ("w\u{fc}rfel", "has the character 'ü'"),
        (
            &"x".repeat(128),
            "has 128 bytes; an LVM name has at most 127",
        ),
        ("pvmove0", "begins with \"pvmove\""),
        ("snapshot-1", "begins with \"snapshot\""),
        ("a_tdata", "contains \"_tdata\""),
        ("a_rimage_0", "contains \"_rimage\""),
        ("lvol0_pmspare", "contains \"_pmspare\""),
        (".ringback-x", "begins with \".ringback\""),
    ] {
        let error = VolumeName::parse(name).expect_err(name).to_string();
        assert!(error.contains(says), "{name:?}: {error}");
        assert!(error.starts_with("name \""), "{error}");
    }
}

#[test]
fn a_name_fits_while_its_device_mapper_name_has_room_for_our_suffix() {
    // 127 = 4 (vg1 and the hyphen) + 99 + 24
    let longest = VolumeName::parse(&"x".repeat(99)).expect("valid");
    assert_eq!(longest.fits("vg1"), Ok(()));
    assert!(longest.fits("vg10").is_err());
    // Hyphens count twice, in both names.
    assert!(longest.fits("vg-").is_err());
    let hyphens = VolumeName::parse(&format!("x{}", "-".repeat(49))).expect("valid");
    assert_eq!(hyphens.fits("vg1"), Ok(()));
    let one_more = VolumeName::parse(&format!("x{}", "-".repeat(50))).expect("valid");
    let error = one_more.fits("vg1").expect_err("too long").to_string();
    assert!(
        error.contains("is 2 bytes too long in the volume group \"vg1\""),
        "{error}"
    );
}

#[test]
fn tags_that_lvm_takes_are_taken_unless_they_are_ours() {
    for tag in ["a", "k8s.io/x=y", "!#&:", &"x".repeat(1024), "my-ringback"] {
        assert_eq!(Tag::parse(tag).expect(tag).as_str(), tag);
    }
    for (tag, says) in [
        ("", "is empty"),
        ("-a", "begins with a hyphen"),
        ("a,b", "has the character ','"),
        ("@a", "has the character '@'"),
        ("ringback.restore=1", "ringback's own"),
        (&"x".repeat(1025), "has 1025 bytes"),
    ] {
        let error = Tag::parse(tag).expect_err(tag).to_string();
        assert!(error.contains(says), "{tag:?}: {error}");
    }
}

#[test]
fn an_error_stays_short_however_long_the_value_was() {
    let error = VolumeName::parse(&"\u{fc}".repeat(1 << 20)).expect_err("too long");
    assert!(error.to_string().len() < 1024, "{error}");
}

#[test]
fn a_location_error_keeps_its_words_and_takes_the_path_of_its_message() {
    let location = InvalidLocation {
        field: "path",
        value: "bucket".into(),
        reason: "has no backup name".into(),
    };
    let error = Invalid::from(location).within("backup.data_source.s3");
    assert_eq!(
        error.to_string(),
        "backup.data_source.s3.path \"bucket\" has no backup name"
    );
}

proptest! {
    #[test]
    fn whatever_parses_consists_of_lvm_characters_alone(name in ".{0,140}") {
        if let Ok(parsed) = VolumeName::parse(&name) {
            prop_assert!(!parsed.as_str().is_empty() && parsed.as_str().len() <= 127);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+-".contains(&b)));
        }
    }
}
