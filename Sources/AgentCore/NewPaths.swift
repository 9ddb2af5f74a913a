internal import BlockIO
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

extension FileSystem {
    /// Where a path leads, symbolic links followed, also when its last parts do not exist yet.
    /// - Throws: ENOENT for a link that leads nowhere: it would be followed when that is made.
    func resolveNew(_ path: String) throws(SystemError) -> String {
        do throws(SystemError) { return try resolve(path) } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw error }
            let path = PathText.withoutEndSlashes(PathText.hasSlash(path) ? path : "./\(path)")
            let name = PathText.name(of: path)
            // What does not exist has no parent to go up to.
            guard !name.isEmpty, name != ".", name != ".." else { throw error }
            let place = PathText.join(try resolveNew(PathText.parent(of: path)), name)
            guard try !isTaken(place) else { throw error }
            return place
        }
    }
}
