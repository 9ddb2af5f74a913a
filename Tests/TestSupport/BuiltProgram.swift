import BlockIO
import Foundation

/// The program `name` as the build put it beside the tests. - Returns: `nil` when it is not there.
public func builtProgram(_ name: String) -> String? {
    let files = LinuxFileSystem()
    // Where the test bundle is a program of its own, and where a helper loads it.
    let candidates = ["/proc/self/exe"] + CommandLine.arguments.filter { $0.contains(".xctest") }
    for candidate in candidates {
        guard let resolved = try? files.resolve(candidate) else { continue }
        let path = LinuxFileSystem.folder(of: resolved) + "/" + name
        if (try? files.exists(path)) == true { return path }
    }
    return nil
}
