/// The process that freezes file systems, and thaws them whatever happens to who asked: at the word `thaw`, when its
/// standard input ends, and at the deadline. `godwit internal-freeze-guard` runs it.
public enum FreezeGuard {
    /// Freezes all of `mountpoints` (or none), says so on standard output, waits, thaws.
    /// - Returns: the exit code.
    public static func run(mountpoints: [String], deadlineMilliseconds: UInt64) -> Int32 { 1 }
}
