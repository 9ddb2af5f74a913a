public import DiskImage
internal import Geometry

/// A state of a disk that stands still: what a backup reads. Any thread.
public protocol BackupSource: AnyObject, Sendable {
    var byteCount: UInt64 { get }
    /// Unit of ``forEachChangedRun(since:_:)``.
    var clusterBytes: UInt64 { get }
    /// Fills `memory` from byte `offset`.
    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(BackupError)
    /// Whether it is still what it was when the backup began; throws when it is not. Called before a point of it
    /// becomes visible.
    func checkUnchanged() throws(BackupError)
    /// Calls `body` with runs of clusters, ascending and disjoint, outside of which the state is the same as state
    /// `base`; with `nil`, outside of which it is zeros.
    func forEachChangedRun(
        since base: String?, _ body: (Range<UInt64>) throws(BackupError) -> Bool
    ) throws(BackupError)
}

/// A snapshot in a disk's folder.
public final class FrozenSource: BackupSource {
    private let state: FrozenState

    public init(_ state: FrozenState) { self.state = state }

    public var byteCount: UInt64 { state.byteCount }
    public var clusterBytes: UInt64 { state.clusterSize.bytes }

    public func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(BackupError) {
        do throws(DiskError) { try unsafe state.read(at: offset, into: memory) } catch { throw BackupError(error) }
    }

    public func checkUnchanged() throws(BackupError) {
        do throws(DiskError) { try state.checkUnchanged() } catch { throw BackupError(error) }
    }

    public func forEachChangedRun(
        since base: String?, _ body: (Range<UInt64>) throws(BackupError) -> Bool
    ) throws(BackupError) {
        do throws(ScanError<BackupError>) {
            try state.forEachChangedRun(since: base) { (run) throws(BackupError) in try body(run) }
        } catch {
            switch error {
            case .disk(let error): throw BackupError(error)
            case .body(let error): throw error
            }
        }
    }
}
