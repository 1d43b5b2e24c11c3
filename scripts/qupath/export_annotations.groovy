/*
 * Export the classified annotations of every image of a QuPath project as GeoJSON: corrected outlines to learn from.
 *
 *   QuPath script -p project.qpproj -a DIR export_annotations.groovy
 *
 * DIR is an absolute path; it gets one file per image, <image file's name without ending>.geojson. Coordinates are
 * QuPath's: level-0 pixels from the corner of the scanned area. Annotations without a class are left out, because
 * nobody has said what they are.
 * Written for QuPath 0.5.1 and later.
 */
import static qupath.lib.scripting.QP.*

if (args.size() != 1)
    throw new IllegalArgumentException("give the folder to write to: -a DIR")
mkdirs(args[0])
def file = new File(getCurrentServer().getURIs().iterator().next().getPath()).getName()
def annotations = getAnnotationObjects().findAll { it.getPathClass() != null }
def path = buildFilePath(args[0], file.replaceAll(/\.[^.]+$/, '') + '.geojson')
exportObjectsToGeoJson(annotations, path, 'FEATURE_COLLECTION')
println "${file}: ${annotations.size()} annotations written to ${path}"
