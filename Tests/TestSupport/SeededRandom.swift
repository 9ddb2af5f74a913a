import LinuxSystem

/// Random numbers that a seed repeats (splitmix64). The seed is printed: run again with `GODWIT_SEED` set to it.
public struct SeededRandom: RandomNumberGenerator, Sendable {
    public let seed: UInt64
    private var state: UInt64

    /// - Parameters:
    ///   - purpose: what the printed line names.
    ///   - seed: `GODWIT_SEED`, or a random one, unless told.
    public init(_ purpose: String, seed: UInt64? = nil) {
        let chosen = seed ?? environmentVariable("GODWIT_SEED").flatMap { UInt64($0) } ?? Self.fresh()
        self.init(seed: chosen)
        print("\(purpose): GODWIT_SEED=\(chosen)")
    }

    /// Silently; for derived generators.
    public init(seed: UInt64) {
        self.seed = seed
        state = seed
    }

    private static func fresh() -> UInt64 {
        randomBytes(4).reduce(0) { $0 << 8 | UInt64($1) }
    }

    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must be positive.
    public mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }
    public mutating func below(_ bound: UInt64) -> UInt64 { UInt64.random(in: 0..<bound, using: &self) }
    /// True once in `count` times.
    public mutating func oneIn(_ count: Int) -> Bool { below(count) == 0 }

    public mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        bytes.withUnsafeMutableBytes { memory in
            for index in stride(from: 0, to: count, by: 8) {
                let word = next()
                withUnsafeBytes(of: word) { source in
                    for part in 0..<min(8, count - index) { memory[index + part] = source[part] }
                }
            }
        }
        return bytes
    }
}
