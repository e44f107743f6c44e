//! Figures for people.

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;
/// Bytes in a TiB.
pub const TIB: u64 = 1 << 40;

/// Bytes as MiB; exact as long as anything that is measured here.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// Bytes as GiB.
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}

/// A number with three digits that count, as wide as it must be: `0.042`, `1.25`, `12.5`, `1250`.
pub fn three_digits(value: f64) -> String {
    let places = match value.abs() {
        magnitude if magnitude == 0.0 || magnitude >= 99.95 => 0,
        magnitude if magnitude >= 9.995 => 1,
        magnitude if magnitude >= 0.995 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

/// Bytes with a unit: `512 B`, `64.0 KiB`, `1.25 GiB`.
pub fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} B")
    } else {
        format!("{} {}", three_digits(value), UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_bytes_their_unit() {
        for (value, shown) in [
            (0.0, "0"),
            (0.0416, "0.042"),
            (0.9999, "1.00"),
            (1.254, "1.25"),
            (12.54, "12.5"),
            (99.97, "100"),
            (1250.4, "1250"),
        ] {
            assert_eq!(three_digits(value), shown);
        }
        for (count, shown) in [
            (512.0, "512 B"),
            (65536.0, "64.0 KiB"),
            (1342177280.0, "1.25 GiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }
}
