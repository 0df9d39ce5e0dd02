//! Gives [`fuzz::bundle`] what libFuzzer invents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bundle::check(data));
