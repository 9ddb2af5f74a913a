import Glibc

/// The entry points that libFuzzer calls; each target brings `fuzz(_:)` and `seeds`.
@_cdecl("LLVMFuzzerTestOneInput") public func fuzzOneInput(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    fuzz([UInt8](UnsafeBufferPointer(start: data, count: count)))
    return 0
}

/// Writes the seeds to the folder that `FUZZ_SEEDS` names, and ends.
@_cdecl("LLVMFuzzerInitialize") public func fuzzInitialize(
    _ argumentCount: UnsafeMutablePointer<CInt>?, _ arguments: UnsafeMutableRawPointer?
) -> CInt {
    guard let folder = getenv("FUZZ_SEEDS") else { return 0 }
    for (index, seed) in seeds.enumerated() {
        guard let file = fopen("\(String(cString: folder))/seed-\(index)", "w") else { exit(1) }
        guard fwrite(seed, 1, seed.count, file) == seed.count, fclose(file) == 0 else { exit(1) }
    }
    exit(0)
}

/// Ends the run with a finding.
func finding(_ what: String) -> Never { fatalError(what) }
